"""Answers a request as one JSON object or as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response

from kt_cli.embedded.server.errors import Json, to_json
from kt_cli.embedded.server.generation import Disconnected, Generation, Piece
from kt_cli.embedded.server.metrics import Metrics
from kt_cli.embedded.server.schema import Common
from kt_cli.embedded.server.state import State
from kt_cli.embedded.server.wire import Answer, Usage, Wire, usage_of

CLIENT_GONE = 499
"""Never sent: what metrics show for a client that left before its answer."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Exchange:
    """One request while it is answered: its choices, its clock and its response objects."""

    def __init__(self, state: State, request: Common, generation: Generation) -> None:
        self.state = state
        self.request = request
        self.generation = generation
        self.wire = Wire(request)
        self.answers = [Answer() for _ in generation.handles]
        self._clock = Clock(state.metrics, len(self.answers))

    def add(self, piece: Piece) -> None:
        self.answers[piece.choice].add(piece.chunk)
        self._clock.tick(piece, self.answers[piece.choice])
        if piece.chunk.finish_reason:
            self.state.answered()

    def usage(self) -> Usage:
        tokens = sum(answer.tokens for answer in self.answers)
        return usage_of(self.generation.handles, self.request.n, tokens)


class Clock:
    """Time to first token and time per token, measured from the moment of submission."""

    def __init__(self, metrics: Metrics, choices: int) -> None:
        self._metrics = metrics
        self._start = time.perf_counter()
        self._first: list[tuple[float, int] | None] = [None] * choices

    def tick(self, piece: Piece, answer: Answer) -> None:
        now = time.perf_counter()
        first = self._first[piece.choice]
        if first is None and answer.tokens:
            self._first[piece.choice] = (now, answer.tokens)
            self._metrics.first_token(now - self._start)
        elif first is not None and piece.chunk.finish_reason and answer.tokens > first[1]:
            self._metrics.per_token((now - first[0]) / (answer.tokens - first[1]))


async def answer_whole(exchange: Exchange, receive: Receive) -> Response:
    """Raises the error of the engine; a client that left gets a status nobody reads."""
    generation = exchange.generation
    try:
        async with cancelled_on_disconnect(receive, generation):
            async for piece in generation.pieces():
                if piece is not None:
                    exchange.add(piece)
    except Disconnected:
        return Response(status_code=CLIENT_GONE)
    finally:
        exchange.state.end(generation)
    return Json(exchange.wire.whole(exchange.answers, exchange.usage()))


class EventStream:
    """An ASGI response that ends its generation with the connection."""

    status_code = 200

    def __init__(self, exchange: Exchange, endpoint: str) -> None:
        self._exchange = exchange
        self._endpoint = endpoint

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        exchange = self._exchange
        try:
            async with cancelled_on_disconnect(receive, exchange.generation):
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                status = 200
                async for data, code in events(exchange):
                    status = code
                    await _send_body(send, data, more=True)
                await _send_body(send, b"", more=False)
        finally:
            exchange.state.end(exchange.generation)
        exchange.state.metrics.count(self._endpoint, status)


async def events(exchange: Exchange) -> AsyncIterator[tuple[bytes, int]]:
    """Server-sent events and the status so far; an error ends the stream without `[DONE]`."""
    try:
        async for event in _json_events(exchange):
            yield event, 200
    except Disconnected:
        yield b"", CLIENT_GONE
    except Exception as error:
        failure = exchange.state.failure(error)
        yield _event(failure.body()), failure.status


async def _json_events(exchange: Exchange) -> AsyncIterator[bytes]:
    wire = exchange.wire
    for index in range(len(exchange.answers)):
        if opening := wire.opening(index):
            yield _event(opening)
    async for piece in exchange.generation.pieces(exchange.state.limits.keep_alive_s):
        if piece is None:
            yield b": keep-alive\n\n"
            continue
        offset = exchange.answers[piece.choice].spelled
        exchange.add(piece)
        if piece.chunk.text or piece.chunk.logprobs or piece.chunk.finish_reason:
            yield _event(wire.delta(piece.choice, piece.chunk, offset))
    if closing := wire.closing(exchange.usage()):
        yield _event(closing)
    yield b"data: [DONE]\n\n"


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive, generation: Generation) -> AsyncIterator[None]:
    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.stop()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + to_json(body) + b"\n\n"


async def _send_body(send: Send, data: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
