"""The supervisor: one process per server that starts the engine, listens to it and writes it down.

    python -m kt_cli.runtime.supervisor HOME NAME LOCK

LOCK is the descriptor of the locked file that it inherits. The process that was started returns
when its fork, the supervisor, is on record and can be asked to stop; else it prints why not.
SIGTERM asks it to stop the engine, SIGQUIT to kill it. It reads spec.json and writes state.json,
events.ndjson and engine.log; once it runs, none of these has to succeed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from kt_cli.runtime import autopsy, cgroup, keeper, ports, procs
from kt_cli.runtime.account import Account
from kt_cli.runtime.health import Address, ReadyProbe
from kt_cli.runtime.logfile import BoundedLog
from kt_cli.runtime.losses import Losses
from kt_cli.runtime.register import Folder, Order, read_order
from kt_cli.runtime.watch import LogWatch
from kt_cli.runtime.workers import Workers

API_KEY_VARIABLE = "KT_API_KEY"
_CHUNK = 65536
_STARTED = b"started"
_SLACK_S = 5.0
_RETRY_S = 1.0


class Supervisor:
    """`run` returns when the engine and all its descendants are gone."""

    def __init__(self, folder: Folder, order: Order, key: str | None) -> None:
        self._folder = folder
        self._order = order
        self._key = key
        self._losses = Losses()
        self._log = BoundedLog(folder.log, losses=self._losses)
        self._account = Account(folder, order, key is not None, self._losses)
        self._watch = LogWatch(order.spec)
        self._selector = selectors.DefaultSelector()
        self._retried = float("-inf")
        self._stop_by = ""
        self._ended = False
        self._give_up: float | None = None
        self._probe: ReadyProbe | None = None
        self._workers: Workers | None = None
        self._said = b""
        self._group = cgroup.create(order.name)
        own = (self._group,) if self._group else ()
        self._groups = (*cgroup.own_groups(), *own)
        self._oom = autopsy.oom_count(self._groups)

    def run(self, wakeup: socket.socket) -> None:
        """`wakeup` is where signals arrive as bytes."""
        self._output, output = os.pipe()
        self._report, report = os.pipe()
        self._keeper: int | None = keeper.fork(self._command(output), report)
        for number in (output, report):
            os.close(number)
        self._listen(wakeup)
        while self._keeper is not None:
            self._turn()
        self._on_report(self._report)
        self._finish()

    def _command(self, output: int) -> keeper.Command:
        spec = self._order.spec
        cwd = spec.cwd or str(self._folder.path)
        env = _environment(os.environ, spec.env, self._key)
        return keeper.Command(spec.argv, env, cwd, output, self._order.grace_s, self._group)

    def _listen(self, wakeup: socket.socket) -> None:
        for number in (self._output, self._report):
            os.set_blocking(number, False)
        self._on(self._output, self._on_output)
        self._on(self._report, self._on_report)
        self._on(wakeup, self._on_signal)

    def _on(self, source: Any, action: Any) -> None:
        self._selector.register(source, selectors.EVENT_READ, action)

    def _turn(self) -> None:
        for key, _ in self._selector.select(0.5):
            key.data(key.fileobj)
        self._check()

    def _check(self) -> None:
        """What no descriptor tells: a late start, a client or a worker that is gone, a keeper
        that hangs."""
        self._check_workers()
        self._retry()
        late = self._account.age_s > self._order.spec.ready_timeout_s
        if late and self._account.status == "starting" and not self._ended:
            timeout_s = self._order.spec.ready_timeout_s
            self._account.failed(autopsy.never_ready(self._order.name, timeout_s, self._watch))
            self._signal_keeper(keeper.STOP)
        client = self._order.client
        if client is not None and not self._stop_by and not procs.alive(client):
            self._stop("signal")
        if self._give_up is not None and time.monotonic() > self._give_up:
            self._signal_keeper(signal.SIGKILL)

    def _retry(self) -> None:
        """The disk may take again what it refused."""
        now = time.monotonic()
        if self._losses.last is not None and now - self._retried > _RETRY_S:
            self._retried = now
            self._account.retry(self._log.retry())

    def _check_workers(self) -> None:
        running = self._account.status in ("starting", "ready") and not self._ended
        lost = self._workers.lost(time.monotonic()) if self._workers and running else None
        if lost is not None:
            name, was_ready = self._order.name, self._account.was_ready
            failure = autopsy.lost(name, lost, was_ready, self._watch, self._oom_since())
            self._account.failed(failure)
            self._signal_keeper(keeper.KILL)

    def _on_output(self, number: int) -> None:
        data = self._read(number)
        self._log.write(data)
        for progress in self._watch.feed(data):
            self._account.progress(progress)
        if self._watch.said_ready and self._probe:
            self._probe.hurry()

    def _on_report(self, number: int) -> None:
        *lines, self._said = (self._said + self._read(number)).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, message: dict[str, Any]) -> None:
        """What the keeper says; see `keeper.fork`."""
        if "pid" in message:
            self._started(message["pid"])
        elif "status" in message:
            self._engine_ended(message["status"])
        else:
            program = self._order.spec.argv[0]
            failure = autopsy.not_started(self._order.name, program, message["error"])
            self._account.failed(failure)

    def _started(self, pid: int) -> None:
        self._account.started(pid)
        self._workers = Workers(pid)
        answer, wake = os.pipe()
        self._on(answer, self._on_ready)
        address = Address(self._account.server.url, self._order.spec.ready_path, self._key)
        self._probe = ReadyProbe(address, wake, self._is_ours)
        self._probe.start()

    def _is_ours(self) -> bool:
        """True unless the port belongs to somebody outside of our tree."""
        found = ports.holders(self._order.spec.port)
        return not found or bool(found & set(procs.descendants(os.getpid())))

    def _on_ready(self, number: int) -> None:
        self._selector.unregister(number)
        if self._account.status == "starting" and not self._ended:
            self._watch.forget()
            self._account.ready()

    def _on_signal(self, wakeup: socket.socket) -> None:
        for number in wakeup.recv(64):
            if number in (keeper.STOP, keeper.KILL):
                self._stop("user", signal.Signals(number))
        if self._keeper in procs.reap():
            self._keeper = None

    def _stop(self, by: str, number: signal.Signals = keeper.STOP) -> None:
        self._stop_by = self._stop_by or by
        if self._account.server.live and not self._ended:
            self._account.stopping()
        self._signal_keeper(number)
        if self._give_up is None:
            self._give_up = time.monotonic() + self._order.grace_s + _SLACK_S

    def _signal_keeper(self, number: signal.Signals) -> None:
        if self._keeper is not None:
            os.kill(self._keeper, number)

    def _engine_ended(self, status: int) -> None:
        self._ended = True
        self._drain()
        if self._account.status == "failed" or self._stop_by:
            return
        name, was_ready = self._order.name, self._account.was_ready
        failure = autopsy.ended(name, status, was_ready, self._watch, self._oom_since())
        self._account.failed(failure)

    def _oom_since(self) -> bool:
        """The OOM killer has been at work since the start."""
        return autopsy.oom_count(self._groups).grew_since(self._oom)

    def _drain(self) -> None:
        """Takes in what the engine wrote before its end; its orphans may still hold the pipe."""
        while data := self._read(self._output):
            self._log.write(data)
            list(self._watch.feed(data))
        self._watch.finish()

    def _finish(self) -> None:
        """Nothing of the engine lives on, whatever became of the keeper."""
        if self._probe:
            self._probe.end()
        procs.kill_descendants()
        if self._group is not None:
            cgroup.kill(self._group)
            cgroup.remove(self._group)
        if not self._ended:
            self._engine_ended(signal.SIGKILL)
        if self._account.status != "failed":
            self._account.stopped(self._stop_by)
        self._log.close()
        self._account.close()

    def _read(self, number: int) -> bytes:
        """What there is; a source that has ended is not listened to any longer."""
        try:
            data = os.read(number, _CHUNK)
        except BlockingIOError:
            return b""
        if not data and number in self._selector.get_map():
            self._selector.unregister(number)
        return data


def _environment(
    inherited: Mapping[str, str], wanted: Mapping[str, str], key: str | None
) -> dict[str, str]:
    """The engine's environment; the key travels here, where other users cannot read it."""
    kept = {name: value for name, value in inherited.items() if name != API_KEY_VARIABLE}
    own = {API_KEY_VARIABLE: key} if key else {}
    return {**kept, "PYTHONUNBUFFERED": "1", **wanted, **own}


def _signals() -> socket.socket:
    """Signals arrive as bytes on a socket; SIGHUP and SIGINT are meant for others."""
    reading, writing = socket.socketpair()
    for end in (reading, writing):
        end.setblocking(False)
    signal.set_wakeup_fd(writing.detach(), warn_on_full_buffer=False)
    for number in (keeper.STOP, keeper.KILL, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _nothing)
    return reading


def _nothing(number: int, frame: FrameType | None) -> None:
    """The byte on the wake-up socket says it all."""


def main(argv: list[str]) -> None:
    folder = Folder(Path(argv[0]), argv[1])
    os.set_inheritable(int(argv[2]), False)
    alive, say = os.pipe()
    if os.fork():
        os.close(say)
        said = os.read(alive, _CHUNK)
        os.write(1, said)
        os._exit(0 if said == _STARTED else 1)
    os.dup2(2, 1)  # whoever started this waits for the end of what it says
    procs.set_title("kt-supervisor")
    procs.adopt_orphans()
    try:
        key = folder.key.read_text(encoding="utf-8") if folder.key.exists() else None
        supervisor = Supervisor(folder, read_order(folder), key)
    except OSError as error:
        os.write(say, f"{error.strerror or error}: {error.filename or folder.path}".encode())
        os._exit(1)
    wakeup = _signals()
    os.write(say, _STARTED)
    for number in (alive, say):
        os.close(number)
    supervisor.run(wakeup)


if __name__ == "__main__":
    main(sys.argv[1:])
