"""What the supervisor tells the world about its server: state.json and the journal, in step."""

from __future__ import annotations

import dataclasses
import os
import time

from kt_cli.core.events import Event, Failed, Progress, Ready, Starting, Stopped
from kt_cli.runtime import ports, procs
from kt_cli.runtime.journal import Journal
from kt_cli.runtime.register import Folder, Order, Server, Status, write_state


class Account:
    def __init__(self, folder: Folder, order: Order, with_key: bool) -> None:
        self._folder = folder
        self._order = order
        self._journal = Journal(folder.events)
        self._began = time.monotonic()
        self.server = _record(folder, order, with_key)
        write_state(folder, self.server)

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

    def close(self) -> None:
        self._journal.close()

    def _now(self, status: Status, **changes: object) -> None:
        self.server = dataclasses.replace(self.server, state=status, **changes)  # type: ignore[arg-type]
        write_state(self._folder, self.server)

    def _tell(self, event: Event) -> None:
        self._journal.write(event)


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
