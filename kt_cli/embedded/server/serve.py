"""Runs the server around a loading engine, from the open port to the end of the process."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import FrameType

import uvicorn

from kt_cli.embedded.api import Engine
from kt_cli.embedded.server.app import create_app
from kt_cli.embedded.server.connection import Connection, Connections
from kt_cli.embedded.server.listen import url_of
from kt_cli.embedded.server.report import Report
from kt_cli.embedded.server.state import State
from kt_cli.errors import DoesNotFitError, KtError

OPEN_FILES = 8192
FILES_KEPT = 256
"""For the engine: checkpoints, packs, logs."""
GRACE_S = 1
"""Time for ended answers to reach their clients."""
CLOSE_S = 0.5
"""Time for the engine to put its things away."""

Progress = Callable[[str, float], None]
"""What is being done, and how much of the whole, 0 to 1."""
Load = Callable[[Progress], Engine]
log = logging.getLogger(__name__)


def http_server(state: State) -> uvicorn.Server:
    most = min(state.limits.connections.most, _raise_open_files() - FILES_KEPT)
    connections = Connections(replace(state.limits.connections, most=max(1, most)))
    config = uvicorn.Config(
        create_app(state),
        http=partial(Connection, connections=connections),
        log_config=None,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


def _raise_open_files() -> int:
    """How many files this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return OPEN_FILES if soft == resource.RLIM_INFINITY else soft


class Service:
    """One engine behind one socket; `run` returns the exit code of the process."""

    def __init__(self, state: State, sock: socket.socket, load: Load, report: Report) -> None:
        self._state = state
        self._sock = sock
        self._load = load
        self._report = report
        self._engine: Engine | None = None
        self._failure: KtError | None = None
        state.on_lost = self._fail
        self._server = http_server(state)
        self._server.handle_exit = self._on_signal

    def run(self) -> int:
        self._report.listening(url_of(self._sock))
        asyncio.run(self._serve())
        if self._failure is not None:
            self._report.failed(self._failure)
            return self._failure.exit_code
        self._close_engine()
        self._report.stopped()
        return 0

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._load_engine, daemon=True).start()
        await self._server.serve(sockets=[self._sock])

    def _load_engine(self) -> None:
        try:
            engine = self._load(self._on_progress)
        except KtError as error:
            self._fail(error)
        except MemoryError:
            self._fail(DoesNotFitError("the model does not fit into memory", "", "run `kt plan`"))
        except Exception as error:
            log.error("loading failed\n%s", traceback.format_exc())
            why = f"{type(error).__name__}: {error}"
            self._fail(KtError("the model could not be loaded", why, "read the log above"))
        else:
            self._call(self._on_ready, engine)

    def _on_progress(self, stage: str, fraction: float) -> None:
        self._report.progress(stage, fraction)
        self._call(self._state.report, stage, fraction)

    def _on_ready(self, engine: Engine) -> None:
        self._engine = engine
        self._state.ready(engine)
        self._report.ready(url_of(self._sock))

    def _fail(self, error: KtError) -> None:
        self._failure = error
        self._call(self.stop)

    def stop(self) -> None:
        self._state.stop()
        self._server.should_exit = True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Replaces the server's own handler, which would raise the signal again at the end."""
        self._server.force_exit = self._server.should_exit and number == signal.SIGINT
        self._server.should_exit = True
        self._call(self._state.stop)

    def _call(self, what: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:
            log.debug("the server has ended already")

    def _close_engine(self) -> None:
        if self._engine is None:
            return
        closing = threading.Thread(target=self._engine.close, daemon=True)
        closing.start()
        closing.join(CLOSE_S)
