"""A real uvicorn over a fake engine, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from embedded.server.fake import FakeEngine, Script, wait_until
from kt_cli.embedded.server import Limits, State
from kt_cli.embedded.server.listen import open_port, url_of
from kt_cli.embedded.server.serve import http_server


@dataclass
class Running:
    url: str
    engine: FakeEngine
    state: State
    loop: asyncio.AbstractEventLoop

    def on_loop(self, what: Callable[..., Any], *args: Any) -> None:
        self.loop.call_soon_threadsafe(what, *args)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=20, **options)

    def chat(self, content: str = "hi", **more: Any) -> httpx.Response:
        messages = [{"role": "user", "content": content}]
        body = {"model": self.engine.model_name, "messages": messages, **more}
        return self.post("/v1/chat/completions", body)


@contextmanager
def serving(
    script: Script | None = None,
    *,
    api_key: str = "",
    ready: bool = True,
    limits: Limits | None = None,
) -> Iterator[Running]:
    engine = FakeEngine(script=script or Script())
    state = State(engine.model_name, api_key=api_key, limits=limits)
    if ready:
        state.ready(engine)
    sock = open_port("127.0.0.1", 0)
    url = url_of(sock)
    server = http_server(state)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(server.serve(sockets=[sock]),), daemon=True
    )
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Running(url, engine, state, loop)
    finally:
        server.should_exit = True
        thread.join(5)
        loop.close()
