"""`Generation`: the blocking handles of one request as one asynchronous stream."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from kt_cli.embedded.api import Chunk, Handle
from kt_cli.embedded.server.errors import ApiError, shutting_down


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk and the choice it belongs to."""

    choice: int
    chunk: Chunk


class Disconnected(Exception):
    """The client went away; there is nobody to answer."""


class Generation:
    """One thread per handle feeds the event loop; `stop` ends the stream from any coroutine."""

    def __init__(self, handles: Sequence[Handle]) -> None:
        self.handles = handles
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

    def start(self) -> None:
        for choice, handle in enumerate(self.handles):
            threading.Thread(target=self._pump, args=(choice, handle), daemon=True).start()

    def stop(self, reason: Exception | None = None) -> None:
        """Frees the slots; a reader that still waits gets `reason`."""
        for handle in self.handles:
            handle.cancel()
        self._queue.put_nowait(reason or Disconnected())

    async def pieces(self, idle_s: float | None = None) -> AsyncIterator[Piece | None]:
        """Pieces until every choice has finished; None whenever `idle_s` passed without one."""
        open_choices = len(self.handles)
        while open_choices:
            try:
                item = await asyncio.wait_for(self._queue.get(), idle_s)
            except asyncio.TimeoutError:
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item.chunk.finish_reason == "cancelled":
                raise shutting_down()
            open_choices -= item.chunk.finish_reason is not None
            yield item

    def _pump(self, choice: int, handle: Handle) -> None:
        ended = False
        try:
            for chunk in handle:
                ended = chunk.finish_reason is not None
                self._post(Piece(choice, chunk))
        except Exception as error:
            self._post(error)
            return
        if not ended:
            self._post(ApiError(500, "The engine ended an answer early", code="engine_error"))

    def _post(self, item: Piece | BaseException) -> None:
        # The loop may be closed already when the server ends under a running answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
