"""Workers that an engine has lost without noticing.

SGLang's server lives on when its scheduler is killed from outside (by the kernel for want of
memory, mostly), and every request then waits for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from kt_cli.runtime import procs

_PAUSE_S = 1.5
_DEADLY = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGABRT,
        signal.SIGFPE,
    }
)
"""Nobody sends these to end a helper that is no longer needed."""


@dataclass(frozen=True, slots=True)
class Lost:
    pid: int
    title: str
    status: int
    """As from wait(2)."""


class Workers:
    """Children of one engine; `lost` may be asked as often as one likes."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._looked = float("-inf")
        self._dead: Mapping[int, int] = {}

    def lost(self, now: float) -> Lost | None:
        """A child that a deadly signal ended and that the engine left uncollected for a while."""
        if now - self._looked < _PAUSE_S:
            return None
        before, self._looked = self._dead, now
        self._dead = {p: s for p, s in procs.uncollected(self._engine).items() if _deadly(s)}
        for pid in sorted(self._dead.keys() & before.keys()):
            return Lost(pid, procs.title(pid), self._dead[pid])
        return None


def _deadly(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) in _DEADLY
