"""What an engine's log says: progress while it loads, and the reason when it ends.

Engines of this project write `kt-engine progress FRACTION STAGE`, `kt-engine ready URL` and
`kt-engine failed JSON`; any other engine is read by the patterns of its `LaunchSpec`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator

from kt_cli.core.events import Failed, Progress
from kt_cli.core.launch import Diagnosis, LaunchSpec

TAIL_LINES = 20
_MARK = "kt-engine "
_LONGEST_LINE = 8192


class LogWatch:
    """Reads lines as they come and remembers what they said."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._stages = [(re.compile(s.pattern), s) for s in spec.stages]
        self._diagnoses = [(re.compile(d.pattern), d) for d in spec.diagnoses]
        self._matched: dict[int, str] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._last: Progress | None = None
        self._rest = b""
        self.failure: Failed | None = None
        """What the engine itself said before it ended."""
        self.said_ready = False

    def feed(self, data: bytes) -> Iterator[Progress]:
        """Bytes of the log in any pieces; yields progress that is new."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            yield from self._line(line.decode(errors="replace").rstrip("\r"))

    def finish(self) -> None:
        """Takes in a last line without an end."""
        if self._rest:
            for _ in self.feed(b"\n"):
                pass

    def forget(self) -> None:
        """What was said while loading does not explain a later end."""
        self._matched.clear()

    @property
    def tail(self) -> tuple[str, ...]:
        return tuple(self._tail)

    @property
    def diagnosis(self) -> Diagnosis | None:
        """The first of the spec's diagnoses that matched; specs list the telling ones first."""
        return self._diagnoses[min(self._matched)][1] if self._matched else None

    @property
    def diagnosis_line(self) -> str:
        return self._matched[min(self._matched)] if self._matched else ""

    def _line(self, line: str) -> Iterator[Progress]:
        if line.startswith(_MARK):
            progress = self._own(line[len(_MARK) :])
        else:
            self._tail.append(line[:_LONGEST_LINE])
            progress = self._foreign(line)
        if progress is not None and progress != self._last:
            self._last = progress
            yield progress

    def _own(self, text: str) -> Progress | None:
        word, _, rest = text.partition(" ")
        if word == "progress":
            return _progress(rest)
        if word == "ready":
            self.said_ready = True
        elif word == "failed":
            self.failure = _failure(rest)
        return None

    def _foreign(self, line: str) -> Progress | None:
        for index, (pattern, _) in enumerate(self._diagnoses):
            if index not in self._matched and pattern.search(line):
                self._matched[index] = line
        for pattern, stage in self._stages:
            if pattern.search(line):
                return Progress(stage.name, stage.fraction)
        return None


def _progress(text: str) -> Progress | None:
    number, _, stage = text.partition(" ")
    try:
        return Progress(stage, min(1.0, max(0.0, float(number))))
    except ValueError:
        return None


def _failure(text: str) -> Failed | None:
    try:
        said = json.loads(text)
        return Failed(str(said["what"]), str(said.get("why", "")), str(said.get("fix", "")))
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
