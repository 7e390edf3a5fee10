"""What the supervisor tells the world about its server: in memory, state.json and the journal.

What the disk refuses is told by the memory alone, and written when the disk takes it again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

from kt_cli.core.events import Event, Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.serial import to_plain
from kt_cli.runtime import ports, procs
from kt_cli.runtime.board import Board
from kt_cli.runtime.journal import Journal, as_plain
from kt_cli.runtime.losses import Losses
from kt_cli.runtime.register import (
    Folder,
    Order,
    Server,
    Status,
    reserve,
    write_last,
    write_state,
)


class Account:
    def __init__(self, folder: Folder, order: Order, with_key: bool, losses: Losses) -> None:
        self._folder = folder
        self._order = order
        self._losses = losses
        self._journal = Journal(folder.events, losses)
        self._board = Board()
        self._events: list[dict[str, Any]] = []
        self._first = 0
        """Number of the oldest event that is still shown."""
        self._saved = True
        self._began = time.monotonic()
        self.server = _record(folder, order, with_key)
        reserve(folder)
        write_state(folder, self.server)
        self._show()

    @property
    def status(self) -> Status:
        return self.server.state

    @property
    def was_ready(self) -> bool:
        return self.server.ready_s is not None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began

    def started(self, pid: int) -> None:
        self._now(self.status, pid=pid)
        self._tell(Starting(self._order.name, pid, " ".join(self._order.spec.argv)))

    def progress(self, progress: Progress) -> None:
        if self.status == "starting":
            self._tell(progress)

    def ready(self) -> None:
        seconds = round(self.age_s, 3)
        self._now("ready", ready_s=seconds)
        self._tell(Ready(self.server.url, seconds))

    def stopping(self) -> None:
        self._now("stopping")

    def failed(self, failure: Failed) -> None:
        self._now("failed", failure=failure, ended=time.time())
        self._tell(failure)

    def stopped(self, by: str) -> None:
        self._now("stopped", ended=time.time())
        self._tell(Stopped(by))

    def retry(self, log_is_whole: bool) -> None:
        """Writes what the disk refused before, and says what is lost."""
        if self._journal.retry() and (self._saved or self._save()) and log_is_whole:
            self._losses.over()
        if self.server.unwritten != self._losses.last:
            self._save()

    def close(self) -> None:
        self._journal.retry()
        self._journal.close()
        write_last(self._folder, self.server)

    def _now(self, status: Status, **changes: object) -> None:
        self.server = dataclasses.replace(self.server, state=status, **changes)  # type: ignore[arg-type]
        self._save()

    def _save(self) -> bool:
        """In memory first, which cannot be full."""
        self._show()
        try:
            write_state(self._folder, self.server)
        except OSError as error:
            self._losses.refused(error)
            self._saved = False
        else:
            self._saved = True
        return self._saved

    def _tell(self, event: Event) -> None:
        self._events.append(as_plain(event))
        self._show()
        self._journal.write(event)

    def _show(self) -> None:
        """The newest events are shown, half as many each time until they fit."""
        self.server = dataclasses.replace(self.server, unwritten=self._losses.last)
        while not self._board.show(self._text()) and self._events:
            dropped = (len(self._events) + 1) // 2
            self._events, self._first = self._events[dropped:], self._first + dropped

    def _text(self) -> bytes:
        shown = {"server": to_plain(self.server), "first": self._first, "events": self._events}
        return json.dumps(shown).encode()


def _record(folder: Folder, order: Order, with_key: bool) -> Server:
    this = procs.identify(os.getpid())
    if this is None:
        raise ProcessLookupError(os.getpid())
    spec = order.spec
    where = ports.url(spec.host, spec.port)
    file = str(folder.key) if with_key else ""
    return Server(
        order.name, spec.model, spec.engine, where, "starting", time.time(), this, api_key_file=file
    )
