"""Following a server from any process, until it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from kt_cli.core.events import Event, Failed
from kt_cli.runtime import logfile, procs
from kt_cli.runtime.journal import Reader, is_last
from kt_cli.runtime.register import Folder, lock, read

_POLL_S = 0.05
_END_S = 10.0


def events(folder: Folder) -> Iterator[Event]:
    reader = Reader(folder.events)
    while True:
        gone = _is_gone(folder)
        for event in reader.fresh():
            yield event
            if is_last(event):
                _wait_gone(folder)
                return
        if gone:
            yield _crash(folder)
            return
        _pause(folder)


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
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""


def _is_gone(folder: Folder) -> bool:
    """True when no supervisor holds the server's lock."""
    held = lock(folder)
    if held is None:
        return False
    os.close(held)
    return True


def _wait_gone(folder: Folder) -> None:
    server = read(folder)
    if server is not None:
        procs.wait_end(server.supervisor, _END_S)


def _pause(folder: Folder) -> None:
    """A moment, cut short by the supervisor's end."""
    server = read(folder)
    if server is None or procs.wait_end(server.supervisor, _POLL_S):
        time.sleep(_POLL_S)


def _crash(folder: Folder) -> Failed:
    """The end of a supervisor that had no time to write it down."""
    server = read(folder)
    if server is not None and server.failure is not None:
        return server.failure
    why = last_words(folder) or "it left no word"
    return Failed(f"the supervisor of {folder.name} broke down", why, "start it again")
