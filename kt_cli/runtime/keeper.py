"""Runs one command and leaves nothing of it behind.

The keeper stands between supervisor and engine. It is a subreaper, so whatever the engine starts
stays below it, however it detaches; when the engine has ended, everything still below is killed.
When the supervisor dies, the kernel sends SIGTERM here; when the keeper dies, the kernel kills the
engine, and the supervisor, a subreaper too, kills the rest. So either may be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kt_cli.children import die_with_parent
from kt_cli.runtime import cgroup, procs

STOP, KILL = signal.SIGTERM, signal.SIGQUIT
_WATCHED = frozenset({STOP, KILL, signal.SIGCHLD})
_ORPHAN_GRACE_S = 1.0
_FOREVER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    output: int
    """Where stdout and stderr go: a file descriptor."""
    grace_s: float
    group: Path | None = None


def fork(command: Command, report: int) -> int:
    """Starts the keeper and returns its pid; it writes JSON lines to the descriptor `report`.

    {"pid": N} or {"error": TEXT} first, then {"status": WAIT_STATUS} when the engine has ended.
    Only for a process with a single thread.
    """
    parent = os.getpid()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid
    try:
        _keep(command, lambda message: _say(report, message), parent)
    finally:
        os._exit(1)


def _keep(command: Command, say: Callable[[Mapping[str, object]], None], parent: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    procs.set_title("kt-keeper")
    procs.adopt_orphans()
    die_with_parent(STOP, parent)
    if command.group is not None:
        cgroup.enter(command.group)
    try:
        engine = _start(command)
    except OSError as error:
        say({"error": error.strerror or str(error)})
        os._exit(0)
    say({"pid": engine.pid})
    say({"status": _wait(engine.pid, command.grace_s)})
    _clear()
    os._exit(0)


def _start(command: Command) -> subprocess.Popen[bytes]:
    keeper = os.getpid()

    def prepare() -> None:
        die_with_parent(signal.SIGKILL, keeper)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    return subprocess.Popen(
        command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=command.output,
        stderr=command.output,
        start_new_session=True,
        preexec_fn=prepare,
    )


def _wait(engine: int, grace_s: float) -> int:
    """The engine's wait status, after a stop if one is asked for."""
    deadline: float | None = None
    while True:
        left = _FOREVER_S if deadline is None else max(0.0, deadline - time.monotonic())
        info = signal.sigtimedwait(_WATCHED, left)
        ended = procs.reap()
        if engine in ended:
            return ended[engine]
        if info is not None and info.si_signo == STOP and deadline is None:
            os.kill(engine, signal.SIGTERM)
            deadline = time.monotonic() + grace_s
        killed = info is not None and info.si_signo == KILL
        if killed or (deadline is not None and time.monotonic() >= deadline):
            os.kill(engine, signal.SIGKILL)
            deadline = time.monotonic() + _FOREVER_S


def _clear() -> None:
    """Asks what is left to end, then kills it."""
    for pid in procs.descendants(os.getpid()):
        process = procs.identify(pid)
        if process is not None:
            procs.send(process, signal.SIGTERM)
    deadline = time.monotonic() + _ORPHAN_GRACE_S
    while procs.descendants(os.getpid()) and time.monotonic() < deadline:
        procs.reap()
        if _asked_to_kill():
            break
        time.sleep(0.02)
    procs.kill_descendants()


def _asked_to_kill() -> bool:
    return signal.sigtimedwait({KILL}, 0) is not None


def _say(report: int, message: Mapping[str, object]) -> None:
    try:
        os.write(report, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return
