"""A server that says exactly what a test wants, byte for byte."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Event = dict[str, Any] | str | float
"""An event's body, a raw line, or seconds of silence."""


def text(content: str, **more: Any) -> Event:
    return {"choices": [{"index": 0, "delta": {"content": content}, **more}]}


def thought(content: str) -> Event:
    return {"choices": [{"index": 0, "delta": {"reasoning_content": content}}]}


END: Event = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE: Event = "[DONE]"


@dataclass
class Raw:
    """`answers` follow one another, the last one repeats; `status` answers instead of a stream."""

    answers: Sequence[Sequence[Event]] = ((text("hello"), END, DONE),)
    status: int = 200
    body: bytes = b""
    models: Sequence[str] = ("raw",)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    broken_pipes: int = 0

    def next_answer(self) -> Sequence[Event]:
        return self.answers[min(len(self.requests), len(self.answers)) - 1]


def _handler(raw: Raw) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            raw.headers.append(dict(self.headers))
            data = [{"id": name, "object": "model"} for name in raw.models]
            self._whole(200, json.dumps({"object": "list", "data": data}).encode())

        def do_POST(self) -> None:
            raw.headers.append(dict(self.headers))
            raw.requests.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            if raw.status != 200:
                self._whole(raw.status, raw.body)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            try:
                for event in raw.next_answer():
                    self._event(event)
            except OSError:
                raw.broken_pipes += 1

        def _event(self, event: Event) -> None:
            if isinstance(event, float):
                time.sleep(event)
                return
            data = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {data}\n\n".encode())
            self.wfile.flush()

        def _whole(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    return Handler


@contextmanager
def raw_server(**script: Any) -> Iterator[Raw]:
    raw = Raw(**script)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(raw))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    raw.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield raw
    finally:
        server.shutdown()
        server.server_close()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never held")
        time.sleep(0.01)
