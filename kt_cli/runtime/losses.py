"""What a supervisor could not write down. A disk that refuses must not matter to a server."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unwritten:
    """`since` and `until` are Unix times; `until` is None as long as writing fails."""

    why: str
    since: float
    until: float | None = None
    lines: int = 0
    """Lines of the engine's output that are lost. State and events are written later."""


class Losses:
    def __init__(self) -> None:
        self.last: Unwritten | None = None

    def refused(self, error: OSError, lines: int = 0) -> None:
        why = error.strerror or str(error)
        if self.last is None or self.last.until is not None:
            self.last = Unwritten(why, time.time())
        self.last = dataclasses.replace(self.last, why=why, lines=self.last.lines + lines)

    def over(self) -> None:
        """Everything that waited has been written."""
        if self.last is not None and self.last.until is None:
            self.last = dataclasses.replace(self.last, until=time.time())
