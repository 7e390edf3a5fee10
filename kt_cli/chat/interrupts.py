"""Ctrl-C as a stop between two pieces of an answer, never in the middle of drawing one.

SIGTERM and a closing terminal end the program by an exception, so that what was changed about the
terminal is put back.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """As a context it holds SIGINT; `each` raises KeyboardInterrupt while it waits for an item."""

    def __init__(self) -> None:
        self._asked = False
        self._waiting = False
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupts:
        if self._main:
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, self._on_signal)}
            for number in _ENDINGS:
                if signal.getsignal(number) == signal.SIG_DFL:
                    self._before[number] = signal.signal(number, _leave)
        return self

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def each(self, items: Iterator[T]) -> Iterator[T]:
        while True:
            self._waiting = True
            try:
                if self._asked:
                    raise KeyboardInterrupt
                item = next(items, None)
            finally:
                self._waiting = False
            if item is None:
                return
            yield item

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        self._asked = True
        if self._waiting:
            raise KeyboardInterrupt


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
