"""One client's connection: how long it may take, how many there may be, errors below the routes.

uvicorn waits for ever for the rest of a request, answers what is no HTTP in plain text, and closes
under a client that is still sending, which then reads a reset in place of its answer.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kt_cli.embedded.server.errors import ApiError, overloaded, to_json


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for something to arrive, and how many bytes earn another one."""

    base_s: float
    bytes_per_s: float = float("inf")

    def limit(self, received: int) -> float:
        return self.base_s + received / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    most: int = 2048
    """Connections at once; beyond it the one that has kept the server waiting longest gives way."""
    head: Patience = Patience(15.0)
    body: Patience = Patience(15.0, 2**10)
    rest: Patience = Patience(5.0, 2**22)
    """What is still being sent after the answer is read and thrown away that long."""
    stalled_s: float = 60.0
    """An answer that its client does not read is given up after that time."""


@dataclass(slots=True)
class Connections:
    """Those of one server whose client has the turn to send, the longest waiting first."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    waiting: dict[Connection, None] = field(default_factory=dict)

    def admit(self, count: int) -> bool:
        if count <= self.limits.most:
            return True
        oldest = next(iter(self.waiting), None)
        if oldest is None:
            return False
        oldest.give_up()
        return True


class Connection(H11Protocol):  # type: ignore[misc]
    def __init__(self, *args: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self._shared = connections
        self._limits = connections.limits
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._patience: Patience | None = None
        self._since = 0.0
        self._received = 0
        self._refused = False
        self._discards = False

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(_LateClosing(transport, self))
        if not self._shared.admit(len(self.connections)):
            return self._refuse(overloaded(self._limits.most))
        self._wait(self._limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._shared.waiting.pop(self, None)
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._discards:
            return
        super().data_received(data)
        if not self._discards:
            self._wait(self._awaited())

    def on_response_complete(self) -> None:
        if not self._discards:
            super().on_response_complete()
            self._wait(self._awaited())

    def send_400_response(self, msg: str) -> None:
        error = sys.exc_info()[1]
        hint = getattr(error, "error_status_hint", 400)
        status = hint if hint < 500 else 400  # clients try again what is a 5xx
        self._refuse(
            ApiError(status, f"Invalid HTTP request: {error}", code="invalid_http_request")
        )

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self._limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def still_receives(self) -> bool:
        """Whether the client may be sending what nobody will read."""
        sending = self._refused or self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        return sending and not self._discards

    def discard_rest(self) -> None:
        self._discards = True
        self._unset_keepalive_if_required()
        self._wait(self._limits.rest)
        self.transport.resume_reading()

    def give_up(self) -> None:
        """In favour of another one."""
        self._shared.waiting.pop(self, None)
        self.transport.abort()

    def _awaited(self) -> Patience | None:
        """None where it is the server's turn."""
        if self.conn.their_state is h11.SEND_BODY:
            return self._limits.body
        return self._limits.head if self.conn.their_state is h11.IDLE else None

    def _wait(self, patience: Patience | None) -> None:
        if patience is self._patience:
            return
        self._patience = patience
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._shared.waiting.pop(self, None)
        if patience is not None:
            self._since, self._received = self.loop.time(), 0
            self._shared.waiting[self] = None
            self._timer = self.loop.call_later(patience.base_s, self._check)

    def _check(self) -> None:
        if self._patience is None:
            return
        left = self._since + self._patience.limit(self._received) - self.loop.time()
        if left > 0.01:
            self._timer = self.loop.call_later(left, self._check)
        elif self._discards or self._silent():
            self.transport.abort()
        else:
            self._refuse(
                ApiError(408, "The request did not arrive in time", code="request_timeout")
            )

    def _silent(self) -> bool:
        return self._patience is self._limits.head and not self.conn.trailing_data[0]

    def _refuse(self, error: ApiError) -> None:
        """Answers without the application, and closes."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(self._raw(error))
        self._refused = True
        self.transport.close()

    def _raw(self, error: ApiError) -> bytes:
        body = to_json(error.body())
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **error.headers,
            "Connection": "close",
        }
        phrase = HTTPStatus(error.status).phrase
        head = h11.Response(status_code=error.status, headers=list(headers.items()), reason=phrase)
        events = (head, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self.conn.send(event) or b"" for event in events)


class _LateClosing:
    """A transport that closes only its own side while the client is still sending."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self._transport.is_closing() or not self._connection.still_receives():
            self._transport.close()
            return
        self._transport.write_eof()
        self._connection.discard_rest()
