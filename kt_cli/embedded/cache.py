"""Where the keys and values of every sequence lie: contiguous segments of one pool of tokens.

A segment is reserved for a request's prompt and whole answer, so a running request can never run
out of room. When it ends its segment stays as a cached prefix until the room is needed. This module
only does the arithmetic; what is stored at those places is the runner's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MIN_REUSE = 8
"""Copying fewer tokens than this is not worth the bookkeeping."""


@dataclass(slots=True, eq=False)
class Segment:
    """Places `start` to `start + room`; `tokens` are those whose keys are stored, in order.

    `payload` belongs to the runner.
    """

    start: int
    room: int
    tokens: list[int] = field(default_factory=list)
    live: bool = True
    used_at: int = 0
    payload: Any = None

    @property
    def end(self) -> int:
        return self.start + self.room


@dataclass(frozen=True, slots=True)
class Opening:
    """A segment, and how its first `reused` tokens get there.

    `source` is the segment to copy them from; None when they are in place already. `evicted` lost
    their places.
    """

    segment: Segment
    reused: int
    source: Segment | None
    evicted: tuple[Segment, ...]


class TokenPool:
    def __init__(self, total: int, *, crop: bool = True, reuse: bool = True) -> None:
        """`crop` False: what is stored for a segment can only be used whole (recurrent states)."""
        self.total = total
        self._crop = crop
        self._reuse = reuse
        self._segments: list[Segment] = []
        self._clock = 0

    @property
    def used(self) -> int:
        """Tokens reserved by running requests or kept as prefixes."""
        return sum(segment.room for segment in self._segments)

    @property
    def segments(self) -> tuple[Segment, ...]:
        return tuple(self._segments)

    def open(self, prompt: Sequence[int], room: int) -> Opening | None:
        """Reserves `room` tokens for a prompt, or None when running requests hold too much.

        At least one token of the prompt is left to run, because its logits are needed.
        """
        source, common = self._best_prefix(prompt)
        if source is not None:
            opening = self._extend(source, common, room) or self._copy(source, common, room)
            if opening is not None:
                return opening
        return self._place(room, None, 0)

    def close(self, segment: Segment, keep: bool = True) -> None:
        """Ends a running segment; it stays as a prefix when that can be of use."""
        self._clock += 1
        if self._reuse and keep and len(segment.tokens) >= MIN_REUSE:
            segment.live = False
            segment.room = len(segment.tokens)
            segment.used_at = self._clock
        else:
            self._segments.remove(segment)

    def _best_prefix(self, prompt: Sequence[int]) -> tuple[Segment | None, int]:
        best, length = None, MIN_REUSE - 1
        if not self._reuse:
            return None, 0
        for segment in self._segments:
            common = _common(segment.tokens, prompt, len(prompt) - 1)
            if not self._crop and common < len(segment.tokens):
                continue
            if common > length or (common == length and best is not None and best.live):
                best, length = segment, common
        return best, length

    def _extend(self, source: Segment, common: int, room: int) -> Opening | None:
        """The same segment again, for a prompt that goes on where a finished one ended."""
        following = [s for s in self._segments if s.start >= source.end]
        wall = min((s.start for s in following if s.live), default=self.total)
        if source.live or source.start + room > wall or common < len(source.tokens) // 2:
            return None
        evicted = tuple(s for s in following if s.start < source.start + room)
        self._drop(evicted)
        source.live, source.room = True, room
        del source.tokens[common:]
        return Opening(source, common, None, evicted)

    def _copy(self, source: Segment, common: int, room: int) -> Opening | None:
        return self._place(room, source, common)

    def _place(self, room: int, source: Segment | None, common: int) -> Opening | None:
        """The place whose cached prefixes are the oldest, none at best."""
        walls = [s for s in self._segments if s.live or s is source]
        starts = [0, *(s.end for s in self._segments)]
        fits = (s for s in starts if self._fits(s, room, walls))
        ranked = [(self._loss(start, room), start) for start in fits]
        if not ranked:
            return None
        start = min(ranked)[1]
        evicted = tuple(s for s in self._segments if _overlap(s, start, room))
        self._drop(evicted)
        segment = Segment(start, room, list(source.tokens[:common]) if source else [])
        self._segments.append(segment)
        return Opening(segment, common, source, evicted)

    def _fits(self, start: int, room: int, walls: Sequence[Segment]) -> bool:
        return start + room <= self.total and not any(_overlap(w, start, room) for w in walls)

    def _loss(self, start: int, room: int) -> tuple[int, int]:
        lost = [s for s in self._segments if _overlap(s, start, room)]
        return max((s.used_at for s in lost), default=0), sum(len(s.tokens) for s in lost)

    def _drop(self, evicted: Sequence[Segment]) -> None:
        self._segments = [s for s in self._segments if s not in evicted]


def _overlap(segment: Segment, start: int, room: int) -> bool:
    return segment.start < start + room and start < segment.end


def _common(stored: Sequence[int], prompt: Sequence[int], limit: int) -> int:
    limit = min(limit, len(stored))
    if list(stored[:limit]) == list(prompt[:limit]):
        return limit
    pairs = zip(stored[:limit], prompt[:limit], strict=True)
    return next(i for i, (a, b) in enumerate(pairs) if a != b)
