"""A scriptable engine: answers come from a function of the prompt, at a given pace."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kt_cli.core.engine_report import EngineReport
from kt_cli.embedded.api import Chunk, Handle, Sampling, Stats, TokenLogprob
from kt_cli.errors import NotReadyError

GREETING = ("Hel", "lo", " wor", "ld", "!")


@dataclass
class Script:
    """`reply` gives the tokens for a prompt; `pause` is the time per token in seconds."""

    reply: Callable[[str], Sequence[str]] = lambda prompt: GREETING
    pause: float = 0.0
    slots: int = 4
    context: int = 256
    cached: int = 0
    fail_after: int | None = None
    load_s: float = 0.0
    kv_total: int = 1000
    dead: bool = False
    render: Callable[[float], object] | None = None


class FakeHandle:
    def __init__(self, engine: FakeEngine, prompt: Sequence[int], sampling: Sampling) -> None:
        self.engine = engine
        self.prompt_tokens = len(prompt)
        self.cached_tokens = engine.script.cached
        self.sampling = sampling
        self.tokens = list(engine.script.reply(decode(prompt)))
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()
        with self.engine.changed:
            self.engine.changed.notify_all()

    def __iter__(self) -> Iterator[Chunk]:
        try:
            if self.engine.wait_for_slot(self):
                yield from self._chunks()
            else:
                yield Chunk("", finish_reason="cancelled")
        finally:
            self.engine.leave(self)

    def _chunks(self) -> Iterator[Chunk]:
        text = ""
        last = min(len(self.tokens), self.sampling.max_tokens) - 1
        for index, token in enumerate(self.tokens):
            if self.cancelled.wait(self.engine.script.pause):
                yield Chunk("", finish_reason="cancelled")
                return
            if index == self.engine.script.fail_after:
                raise RuntimeError("scripted failure")
            text += token
            self.engine.generated += 1
            if any(stop in text for stop in self.sampling.stop):
                yield Chunk("", (index,), self._logprobs(token), "stop")
                return
            done = "length" if index < len(self.tokens) - 1 else "stop"
            yield Chunk(token, (index,), self._logprobs(token), done if index == last else None)
            if index == last:
                return

    def _logprobs(self, token: str) -> tuple[TokenLogprob, ...]:
        if self.sampling.logprobs is None:
            return ()
        top = tuple((f"{token}{k}", k, -0.5 - k) for k in range(self.sampling.logprobs))
        return (TokenLogprob(token, 7, -0.25, top),)


@dataclass
class FakeEngine:
    model_name: str = "fake"
    script: Script = field(default_factory=Script)
    submitted: list[Sampling] = field(default_factory=list)
    generated: int = 0
    notes: tuple[str, ...] = ("rule 2 takes\nno module",)
    report: EngineReport = field(default_factory=EngineReport)
    closed: bool = False

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.queue: deque[FakeHandle] = deque()
        self.running: list[FakeHandle] = []
        self.finished = 0
        self.cancelled = 0
        self.prompt_tokens = 0

    @property
    def context(self) -> int:
        return self.script.context

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def render(self, messages: Sequence[dict[str, object]]) -> list[int]:
        if self.script.render is not None:
            self.script.render(1.0)
        if messages[-1]["content"] == "break the template":
            raise ValueError("roles must alternate")
        return self.encode("".join(f"<{m['role']}>{m['content']}" for m in messages))

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Handle:
        if self.script.dead:
            raise NotReadyError("the engine has failed", "out of memory")
        if any(token > 50_000 for token, _ in sampling.logit_bias):
            raise ValueError("logit_bias has tokens outside the vocabulary")
        if len(prompt) + sampling.max_tokens > self.context:
            raise ValueError("too long")
        self.submitted.append(sampling)
        handle = FakeHandle(self, prompt, sampling)
        with self.changed:
            self.prompt_tokens += len(prompt)
            self.queue.append(handle)
        return handle

    def wait_for_slot(self, handle: FakeHandle) -> bool:
        def free() -> bool:
            first = bool(self.queue) and self.queue[0] is handle
            return handle.cancelled.is_set() or (first and len(self.running) < self.script.slots)

        with self.changed:
            self.changed.wait_for(free)
            self.queue.remove(handle)
            if not handle.cancelled.is_set():
                self.running.append(handle)
            self.changed.notify_all()
        return not handle.cancelled.is_set()

    def leave(self, handle: FakeHandle) -> None:
        with self.changed:
            if handle in self.running:
                self.running.remove(handle)
            self.cancelled += handle.cancelled.is_set()
            self.finished += not handle.cancelled.is_set()
            self.changed.notify_all()

    def stats(self) -> Stats:
        with self.changed:
            running = [h.prompt_tokens for h in self.running]
            return Stats(
                running=len(running),
                waiting=len(self.queue),
                kv_used=sum(running),
                kv_total=self.script.kv_total,
                prompt_tokens=self.prompt_tokens,
                generated_tokens=self.generated,
                requests_finished=self.finished,
                requests_cancelled=self.cancelled,
            )

    def close(self) -> None:
        self.closed = True


def decode(prompt: Sequence[int]) -> str:
    return "".join(map(chr, prompt))


def wait_until(condition: Callable[[], bool], seconds: float = 3.0) -> float:
    """Seconds until `condition` held; fails when it never did."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > seconds:
            raise TimeoutError("the condition never held")
        time.sleep(0.005)
    return time.perf_counter() - start
