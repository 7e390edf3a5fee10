"""The events of one server as NDJSON: written by its supervisor, read by everybody else."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kt_cli.core.events import Event, Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, parse_json
from kt_cli.errors import KtError
from kt_cli.runtime.losses import Losses

_WAITING = 1000
_KINDS: tuple[type[Any], ...] = (Starting, Progress, Ready, Failed, Stopped)


class Journal:
    """Appends whole lines, so that a reader never sees half an event. What the disk refuses waits.

    Only making one raises OSError.
    """

    def __init__(self, path: Path, losses: Losses | None = None) -> None:
        self._file = path.open("ab", buffering=0)
        self._losses = losses or Losses()
        self._waiting: deque[bytes] = deque(maxlen=_WAITING)

    def write(self, event: Event) -> None:
        self._waiting.append(json.dumps(as_plain(event)).encode() + b"\n")
        self.retry()

    def retry(self) -> bool:
        """True when nothing waits to be written."""
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._losses.refused(error)
            return False
        return True

    def _append(self, line: bytes) -> None:
        """The whole line or nothing of it."""
        size = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        self._file.close()


class Reader:
    """Reads on from where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def fresh(self) -> Iterator[Event]:
        """Events written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = parse(line)
            if event is not None:
                yield event


def kind(event: Event) -> str:
    return type(event).__name__.lower()


def as_plain(event: Event) -> dict[str, Any]:
    return {"event": kind(event), "time": round(time.time(), 3), **to_plain(event)}


def is_last(event: Event) -> bool:
    return isinstance(event, (Failed, Stopped))


def parse(line: bytes) -> Event | None:
    """None for a line of another version."""
    try:
        return from_fields(dict(parse_json(line, Source("an event")).values))
    except KtError:
        return None


def from_fields(fields: dict[str, Any]) -> Event | None:
    """What `as_plain` gave; None for that of another version."""
    try:
        cls = {c.__name__.lower(): c for c in _KINDS}[fields.pop("event")]
        fields.pop("time", None)
        event: Event = from_plain(cls, fields)
    except (ValueError, KeyError, ShapeError):
        return None
    return event
