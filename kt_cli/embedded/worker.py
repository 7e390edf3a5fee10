"""The thread that runs the model: takes requests in, makes steps, hands tokens out.

It knows runners, not models, so it is tested with a runner made of arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import torch

from kt_cli.embedded import heap
from kt_cli.embedded.api import Stats
from kt_cli.embedded.cache import Opening, TokenPool
from kt_cli.embedded.runners.base import Runner
from kt_cli.embedded.sampler import sample
from kt_cli.embedded.scheduler import Job, Request, Scheduler
from kt_cli.embedded.stream import Stream
from kt_cli.errors import KtError, NotReadyError

_LONG = 64
"""Tokens of a step from which its buffers are worth giving back."""


@dataclass(frozen=True, slots=True)
class _Row:
    stream: Stream
    logits: torch.Tensor


class Worker:
    def __init__(
        self, runner: Runner, *, max_batch: int, kv_tokens: int, threads: int | None = None
    ) -> None:
        self._runner = runner
        self._pool = TokenPool(kv_tokens, crop=runner.crop, reuse=runner.reuse)
        chunks = {} if runner.chunked else {"chunk": None, "busy_chunk": None}
        self._scheduler = Scheduler(self._pool, max_batch, **chunks)
        self._threads = threads
        self._inbox: SimpleQueue[Stream | None] = SimpleQueue()
        self._closing = False
        self._filled_heap = True  # by loading
        self._failure: BaseException | None = None
        self._stats = Stats(0, 0, 0, kv_tokens, 0, 0, 0, 0)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="kt-engine", daemon=True)
        self._thread.start()

    def submit(self, stream: Stream) -> None:
        """Raises `NotReadyError` when the engine has failed or is closed."""
        with self._lock:
            if self._failure is not None or self._closing:
                raise _gone(self._failure)
            self._inbox.put(stream)

    def wake(self) -> None:
        self._inbox.put(None)

    def stats(self) -> Stats:
        running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
        queued = waiting + self._inbox.qsize()
        return replace(self._stats, running=running, waiting=queued, kv_used=self._pool.used)

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self.wake()
        self._thread.join()

    def _work(self) -> None:
        if self._threads is not None:
            # OpenMP counts threads per calling thread, so this must happen here.
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                while not self._closing:
                    self._receive()
                    self._step()
            self._leave(None)
        except BaseException as error:
            self._leave(error)

    def _receive(self) -> None:
        """Waits for something to do; cancelled requests leave."""
        if self._scheduler.idle:
            self._tidy()
            self._take(self._inbox.get())
        while True:
            try:
                self._take(self._inbox.get_nowait())
            except Empty:
                break
        for request in self._scheduler.everyone():
            if request.owner.handle.cancelled:
                self._finish(request)
                request.owner.end("cancelled")
                self._count(requests_cancelled=1)

    def _tidy(self) -> None:
        """Memory at rest is what was planned, whatever the prompts were."""
        if self._filled_heap and self._inbox.empty():
            heap.give_back()
            self._filled_heap = False

    def _take(self, stream: Stream | None) -> None:
        if stream is not None:
            self._scheduler.add(stream.request)

    def _step(self) -> None:
        for request, opening in self._scheduler.admit():
            self._open(request, opening)
        jobs = self._scheduler.plan()
        if not jobs:
            return
        rows = self._run(jobs)
        for row in [row for row in rows if not row.logits.max().isfinite()]:
            rows.remove(row)
            why = "its weights or a kernel are broken"
            self._fail(row.stream.request, KtError("the model computed no numbers", why))
        self._sample(rows)

    def _open(self, request: Request, opening: Opening) -> None:
        try:
            self._runner.open(opening)
        except Exception as error:
            self._fail(request, error)
            return
        request.owner.handle.cached_tokens = opening.reused
        self._count(prompt_tokens=len(request.prompt), cached_prompt_tokens=opening.reused)

    def _run(self, jobs: Sequence[Job]) -> list[_Row]:
        """One pass for all; when that fails each alone, so that only the culprit suffers."""
        if len(jobs) > 1 and not self._runner.batched:
            return [row for job in jobs for row in self._run([job])]
        try:
            logits = self._runner.run(jobs)
        except Exception as error:
            if len(jobs) > 1:
                return [row for job in jobs for row in self._run([job])]
            self._fail(jobs[0].request, error)
            return []
        self._filled_heap |= sum(len(job.tokens) for job in jobs) >= _LONG
        for job in jobs:
            job.done()
        streams = [job.request.owner for job in jobs if job.last]
        return [_Row(s, row) for s, row in zip(streams, logits, strict=True)]

    def _sample(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        try:
            tokens = sample(
                torch.stack([row.logits for row in rows]), [row.stream.state for row in rows]
            )
        except Exception as error:
            if len(rows) == 1:
                return self._fail(rows[0].stream.request, error)
            for row in rows:
                self._sample([row])
            return None
        for row, token in zip(rows, tokens, strict=True):
            request = row.stream.request
            try:
                reason = row.stream.push(token, row.logits)
            except Exception as error:
                self._fail(request, error)
                continue
            self._count(generated_tokens=1)
            if reason is not None:
                self._finish(request)
                self._count(requests_finished=1)

    def _finish(self, request: Request, keep: bool = True) -> None:
        segment = self._scheduler.remove(request, keep)
        if segment is not None:
            self._runner.close(segment, keep and not segment.live)

    def _fail(self, request: Request, error: BaseException) -> None:
        self._finish(request, keep=False)
        request.owner.handle.put(error)

    def _leave(self, error: BaseException | None) -> None:
        """Tells everybody that waits why nothing more will come."""
        with self._lock:
            self._closing, self._failure = True, error
        while not self._inbox.empty():
            self._take(self._inbox.get())
        for request in self._scheduler.everyone():
            if error is None:
                request.owner.end("cancelled")
            else:
                request.owner.handle.put(_gone(error))

    def _count(self, **more: int) -> None:
        changed = {name: getattr(self._stats, name) + count for name, count in more.items()}
        self._stats = replace(self._stats, **changed)


def _gone(error: BaseException | None) -> NotReadyError:
    if error is None:
        return NotReadyError("the engine is closed")
    reason = f"{type(error).__name__}: {error}"
    gone = NotReadyError("the engine has failed", reason, "start it again; see its log")
    gone.__cause__ = error
    return gone
