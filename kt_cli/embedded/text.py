"""Tokens to text while it is being made: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]
_BROKEN = "�"
_LONGEST = 4
"""Tokens that an unfinished character may take: each holds at least one of its bytes."""


class Detokenizer:
    """`push` gives the text that has become certain; `rest` what an unfinished end leaves."""

    def __init__(self, decode: Decode, prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        # A few tokens of the prompt: some tokenizers drop the space before a first word.
        self._ids = list(prompt[-_LONGEST:])
        self._start = 0
        self._read = len(self._ids)

    def push(self, token: int) -> str:
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        waits = after.endswith(_BROKEN) and len(self._ids) - self._read < _LONGEST
        if waits or len(after) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def rest(self) -> str:
        """The readable part of tokens that were held back, without the broken character."""
        before = self._decode(self._ids[self._start : self._read])
        after = self._decode(self._ids[self._start :])
        self._start = self._read = len(self._ids)
        return after[len(before) :].rstrip(_BROKEN)


@dataclass(frozen=True, slots=True)
class Cut:
    text: str
    stopped: bool


class StopFilter:
    """Holds back an end that could be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> Cut:
        if not self._stops:
            return Cut(text, False)
        self._held += text
        found = [i for i in map(self._held.find, self._stops) if i >= 0]
        if found:
            text, self._held = self._held[: min(found)], ""
            return Cut(text, True)
        safe = len(self._held) - self._doubtful()
        text, self._held = self._held[:safe], self._held[safe:]
        return Cut(text, False)

    def rest(self) -> str:
        text, self._held = self._held, ""
        return text

    def _doubtful(self) -> int:
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
