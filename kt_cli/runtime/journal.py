"""The events of one server as NDJSON: written by its supervisor, read by everybody else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kt_cli.core.events import Event, Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.serial import ShapeError, from_plain, to_plain

_KINDS: tuple[type[Any], ...] = (Starting, Progress, Ready, Failed, Stopped)


class Journal:
    """Appends whole lines, so that a reader never sees half an event."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        head = {"event": kind(event), "time": round(time.time(), 3)}
        self._file.write(json.dumps({**head, **to_plain(event)}).encode() + b"\n")

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
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = _parse(line)
            if event is not None:
                yield event


def kind(event: Event) -> str:
    return type(event).__name__.lower()


def is_last(event: Event) -> bool:
    return isinstance(event, (Failed, Stopped))


def _parse(line: bytes) -> Event | None:
    """None for a line of another version."""
    try:
        fields = json.loads(line)
        cls = {c.__name__.lower(): c for c in _KINDS}[fields.pop("event")]
        fields.pop("time", None)
        event: Event = from_plain(cls, fields)
    except (ValueError, KeyError, ShapeError):
        return None
    return event
