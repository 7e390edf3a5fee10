"""`State`: what the server knows about its engine, from the first moment to the last."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from kt_cli.embedded.api import Engine, Handle, Sampling
from kt_cli.embedded.server.connection import ConnectionLimits
from kt_cli.embedded.server.errors import (
    ApiError,
    from_exception,
    loading,
    overloaded,
    shutting_down,
    too_many_choices,
)
from kt_cli.embedded.server.generation import Generation
from kt_cli.embedded.server.metrics import Metrics
from kt_cli.errors import KtError, NotReadyError

Phase = Literal["loading", "ready", "stopping"]
RENDERERS = 4
FAILURES = 3
"""Requests that fail one after the other until `/health` says so."""
MAX_IN_FLIGHT = 1024
"""Answers running or waiting; each one costs a thread."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    body_bytes: int = 16 * 2**20
    in_flight: int = MAX_IN_FLIGHT
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    keep_alive_s: float = 15.0
    """A comment goes out on a silent stream after that time, so that proxies keep it open."""


class State:
    """Shared by all requests of one server; only the event loop's thread changes it."""

    def __init__(
        self,
        model_name: str,
        *,
        api_key: str = "",
        limits: Limits | None = None,
        defaults: Sampling | None = None,
    ) -> None:
        self.model_name = model_name
        self.api_key = api_key
        self.limits = limits or Limits()
        self.defaults = defaults or Sampling()
        self.metrics = Metrics()
        self.created = int(time.time())
        self._phase: Phase = "loading"
        self._progress: tuple[float, str] = (0.0, "starting")
        self._engine: Engine | None = None
        self._running: set[Generation] = set()
        self._reserved = 0
        self._failures = 0
        self._reason = ""
        self.renderers = ThreadPoolExecutor(RENDERERS, "kt-render")
        """Threads of their own: a chat template that takes long holds up chats alone."""
        self.on_lost: Callable[[KtError], None] | None = None
        """Called when the engine says that it will never answer again."""

    def report(self, stage: str, fraction: float) -> None:
        self._progress = (fraction, stage)

    def ready(self, engine: Engine) -> None:
        self._engine = engine
        if self._phase == "loading":
            self._phase = "ready"

    def stop(self) -> None:
        """Ends every running answer; later requests are refused."""
        self._phase = "stopping"
        for generation in tuple(self._running):
            generation.stop(shutting_down())

    def failure(self, error: BaseException) -> ApiError:
        """The answer to a request whose engine raised `error`."""
        if isinstance(error, NotReadyError) and self.on_lost is not None:
            self.on_lost(error)
        failure = from_exception(error)
        if failure.code == "internal_error":
            log.error("request failed", exc_info=error)
        if failure.status == 500:
            self._failures += 1
            self._reason = failure.message
        return failure

    def answered(self) -> None:
        """One answer has come to its end, so the engine works (again)."""
        self._failures = 0

    @property
    def engine(self) -> Engine:
        if self._phase == "stopping":
            raise shutting_down()
        if self._engine is None:
            raise loading()
        return self._engine

    @property
    def failing(self) -> str:
        """Why one answer after the other fails; empty while they succeed."""
        return self._reason if self._failures >= FAILURES else ""

    def health(self) -> tuple[int, dict[str, Any]]:
        body: dict[str, Any] = {"status": self._phase, "model": self.model_name}
        if self._phase == "loading":
            body["progress"], body["stage"] = self._progress
        if self._phase == "ready" and self.failing:
            body["status"], body["reason"] = "failing", self.failing
        return (200 if body["status"] == "ready" else 503), body

    def render_metrics(self) -> str:
        if self._engine is None:
            return self.metrics.render(None)
        return self.metrics.render(self._engine.stats(), self._engine.report, self.failing)

    @contextmanager
    def room_for(self, answers: int, param: str) -> Iterator[None]:
        """Keeps their places while a request is made ready; `param` asks for so many."""
        limit = self.limits.in_flight
        if answers > limit:
            raise too_many_choices(answers, limit, param)
        held = sum(len(generation.handles) for generation in self._running)
        if held + self._reserved + answers > limit:
            raise overloaded(limit)
        self._reserved += answers
        try:
            yield
        finally:
            self._reserved -= answers

    def start(self, handles: Sequence[Handle]) -> Generation:
        """Raises when the server began to stop while the request was made ready."""
        generation = Generation(handles)
        if self._phase == "stopping":
            generation.stop()
            raise shutting_down()
        self._running.add(generation)
        try:
            generation.start()
        except RuntimeError:  # no more threads
            self.end(generation)
            raise overloaded(self.limits.in_flight) from None
        return generation

    def end(self, generation: Generation) -> None:
        self._running.discard(generation)
        generation.stop()
