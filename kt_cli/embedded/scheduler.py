"""Which tokens of which requests run in the next step. Knows nothing of models or threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kt_cli.embedded.cache import Opening, Segment, TokenPool


@dataclass(slots=True, eq=False)
class Request:
    """`generated` grows as tokens are sampled; `owner` is whoever waits for them."""

    prompt: tuple[int, ...]
    max_tokens: int
    owner: Any = None
    generated: list[int] = field(default_factory=list)
    segment: Segment | None = None

    @property
    def room(self) -> int:
        return len(self.prompt) + self.max_tokens

    @property
    def pending(self) -> int:
        """Tokens known but not yet run."""
        stored = len(self.segment.tokens) if self.segment else 0
        return len(self.prompt) + len(self.generated) - stored

    def next_tokens(self, count: int) -> list[int]:
        stored = len(self.segment.tokens) if self.segment else 0
        inside = self.prompt[stored : stored + count]
        after = max(0, stored - len(self.prompt))
        return [*inside, *self.generated[after : after + count - len(inside)]]


@dataclass(frozen=True, slots=True)
class Job:
    """`tokens` to run behind those of the request's segment; `last` when its logits are wanted."""

    request: Request
    segment: Segment
    tokens: list[int]
    last: bool

    def done(self) -> None:
        self.segment.tokens.extend(self.tokens)


class Scheduler:
    """Requests join in order of arrival and leave when they end, at any step.

    Every step runs one token of each request that is generating, and up to `chunk` tokens of
    prompts (`busy_chunk` while others generate, so that they are not held up).
    """

    def __init__(
        self,
        pool: TokenPool,
        max_batch: int,
        *,
        chunk: int | None = 512,
        busy_chunk: int | None = 128,
    ) -> None:
        """`chunk` None: a prompt must run whole."""
        self.pool = pool
        self.max_batch = max_batch
        self._chunk = chunk
        self._busy_chunk = busy_chunk
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def admit(self) -> list[tuple[Request, Opening]]:
        """Starts waiting requests while there is room; nobody overtakes the first in line."""
        started = []
        while self.waiting and len(self.running) < self.max_batch:
            request = self.waiting[0]
            opening = self.pool.open(request.prompt, request.room)
            if opening is None:
                break
            self.waiting.popleft()
            request.segment = opening.segment
            self.running.append(request)
            started.append((request, opening))
        return started

    def plan(self) -> list[Job]:
        generating = [r for r in self.running if r.generated]
        jobs = [_job(request, 1) for request in generating]
        budget = self._busy_chunk if generating else self._chunk
        for request in self.running:
            if request.generated:
                continue
            if budget is None:
                jobs.append(_job(request, request.pending))
            elif budget > 0:
                jobs.append(_job(request, min(budget, request.pending)))
                budget -= len(jobs[-1].tokens)
        return jobs

    def remove(self, request: Request, keep: bool = True) -> Segment | None:
        """Takes a request out, wherever it is; gives back its segment when it had one."""
        if request in self.waiting:
            self.waiting.remove(request)
        if request in self.running:
            self.running.remove(request)
        segment, request.segment = request.segment, None
        if segment is not None:
            self.pool.close(segment, keep)
        return segment

    def everyone(self) -> Sequence[Request]:
        return [*self.running, *self.waiting]


def _job(request: Request, count: int) -> Job:
    segment = request.segment
    if segment is None:
        raise RuntimeError("a running request has no segment")
    return Job(request, segment, request.next_tokens(count), count == request.pending)
