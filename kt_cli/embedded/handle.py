"""One request in flight, as its client sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue

from kt_cli.embedded.api import Chunk


class RequestHandle:
    """The engine puts chunks in from its thread, the client takes them out in its own."""

    def __init__(self, prompt_tokens: int, wake: Callable[[], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.cancelled = False
        self._wake = wake
        self._chunks: SimpleQueue[Chunk | BaseException] = SimpleQueue()
        self._ended = False

    def __iter__(self) -> Iterator[Chunk]:
        while not self._ended:
            chunk = self._chunks.get()
            if isinstance(chunk, BaseException):
                self._ended = True
                raise chunk
            self._ended = chunk.finish_reason is not None
            yield chunk

    def cancel(self) -> None:
        self.cancelled = True
        self._wake()

    def put(self, chunk: Chunk | BaseException) -> None:
        self._chunks.put(chunk)
