"""Following a server from any process, until it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress

from kt_cli.core.events import Event, Failed, Stopped
from kt_cli.runtime import logfile, procs
from kt_cli.runtime.board import View
from kt_cli.runtime.journal import Reader, from_fields, is_last
from kt_cli.runtime.register import Folder, read

_POLL_S = 0.05
_END_S = 10.0


def events(folder: Folder) -> Iterator[Event]:
    """From the supervisor's own memory while it runs, else from what it wrote down."""
    reader = _reader(folder)
    while True:
        gone = _is_gone(folder)
        for event in reader.fresh():
            yield event
            if is_last(event):
                _wait_gone(folder)
                return
        if gone:
            yield _end(folder)
            return
        _pause(folder)


class _Shown:
    """Reads on from where it stopped in what a supervisor shows."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._next = 0

    def fresh(self) -> Iterator[Event]:
        shown = json.loads(self._view.read() or b"{}")
        numbered = list(enumerate(shown.get("events", ()), shown.get("first", 0)))
        for number, fields in numbered:
            if number >= self._next:
                self._next = number + 1
                event = from_fields(fields)
                if event is not None:
                    yield event


def _reader(folder: Folder) -> Reader | _Shown:
    server = read(folder)
    if server is not None and server.live:
        with suppress(OSError, ValueError):
            return _Shown(View(server.supervisor.pid))
    return Reader(folder.events)


def lines(folder: Folder, count: int | None, follow: bool) -> Iterator[str]:
    follower = logfile.Follower(folder.log) if follow else None
    yield from logfile.tail(folder.log, count)
    while follower is not None:
        gone = _is_gone(folder)
        yield from follower.fresh()
        if gone:
            break
        _pause(folder)
    if follower is not None and follower.rest():
        yield follower.rest()


def last_words(folder: Folder) -> str:
    try:
        lines = folder.trace.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def _is_gone(folder: Folder) -> bool:
    server = read(folder)
    return server is None or not procs.alive(server.supervisor)


def _wait_gone(folder: Folder) -> None:
    server = read(folder)
    if server is not None:
        procs.wait_end(server.supervisor, _END_S)


def _pause(folder: Folder) -> None:
    """A moment, cut short by the supervisor's end."""
    server = read(folder)
    if server is None or procs.wait_end(server.supervisor, _POLL_S):
        time.sleep(_POLL_S)


def _end(folder: Folder) -> Failed | Stopped:
    """The end of a supervisor that could not write it into the journal."""
    server = read(folder)
    if server is not None and server.state == "stopped":
        return Stopped("engine")
    if server is not None and server.failure is not None:
        return server.failure
    why = last_words(folder) or "it left no word"
    return Failed(f"the supervisor of {folder.name} broke down", why, "start it again")
