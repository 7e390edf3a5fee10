"""Processes as Linux knows them: identity beyond the pid, trees, signals that cannot go astray.

The layout of /proc/PID/stat is that of proc_pid_stat(5). A pid is reused, so a process is told by
its pid, the clock tick it started at, and the boot and pid namespace these belong to.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_STATE, _PPID, _STARTED, _STATUS = 0, 1, 19, 49
_POLL_S = 0.05
_LARGE = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Process:
    """One process, told from all others; `started` is in clock ticks since boot."""

    pid: int
    started: int
    where: str
    """Boot and pid namespace in which pid and time mean something."""


def identify(pid: int) -> Process | None:
    """The process that has this pid now; None for one that is gone or a zombie."""
    fields = _stat(pid)
    if fields is None or fields[_STATE] in "ZX":
        return None
    return Process(pid, int(fields[_STARTED]), here())


def here() -> str:
    """Boot and pid namespace of this process; some sandboxes do not tell the boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"


def alive(process: Process) -> bool:
    return identify(process.pid) == process


def send(process: Process, number: signal.Signals) -> bool:
    """False when the process has ended; raises PermissionError when it belongs to another user."""
    fd = _open(process)
    try:
        if not alive(process):
            return False
        if fd is None:
            os.kill(process.pid, number)
        else:
            signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        _close(fd)
    return True


def wait_end(process: Process, timeout_s: float) -> bool:
    """True when the process has ended within the time."""
    deadline = time.monotonic() + timeout_s
    fd = _open(process)
    try:
        while alive(process):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            _wait(fd, left)
    finally:
        _close(fd)
    return True


def descendants(pid: int) -> tuple[int, ...]:
    """Pids of all processes below `pid`, zombies left out, parents before children."""
    import psutil

    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return ()
    return tuple(child.pid for child in below if identify(child.pid) is not None)


def kill_descendants(timeout_s: float = 10.0) -> bool:
    """Kills everything below this process and reaps it; False when something would not die.

    Looks again after each round, since a process may fork until it is dead, and waits for those
    that are dead but still give their memory back. Needs the caller to be a subreaper, so that
    orphans stay below it.
    """
    deadline = time.monotonic() + timeout_s
    while _children_left():
        for pid in descendants(os.getpid()):
            _kill(pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _children_left() -> bool:
    """Collects those that have ended; False when no child is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def reap() -> dict[int, int]:
    """Collects every child that has ended: pid → wait status."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def uncollected(pid: int) -> dict[int, int]:
    """Children of `pid` that have ended and that it has not waited for: pid → wait status."""
    found = {}
    for child in pids():
        fields = _stat(child)
        if fields is not None and fields[_STATE] == "Z" and int(fields[_PPID]) == pid:
            found[child] = int(fields[_STATUS])
    return found


def command_line(pid: int) -> tuple[str, ...]:
    """Empty for a process that is gone or whose arguments may not be read."""
    import psutil

    try:
        return tuple(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ()


def title(pid: int) -> str:
    """The short name; also of a process that has ended but is not collected."""
    import psutil

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def resident(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold, shared pages once.

    A large process counts its shared pages too: to tell them apart, the kernel would have to look
    at each of its pages, while SGLang's many forked helpers are small.
    """
    return sum(_memory(p) for p in (pid, *descendants(pid)))


def _memory(pid: int) -> int:
    """The process's part of its resident bytes (Pss of proc_pid_smaps(5)), else all of them."""
    import psutil

    try:
        process = psutil.Process(pid)
        size = int(process.memory_info().rss)
        try:
            return size if size > _LARGE else int(process.memory_full_info().pss)
        except psutil.AccessDenied:
            return size
    except psutil.NoSuchProcess:
        return 0


def adopt_orphans() -> None:
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_title(title: str) -> None:
    """The short name in `ps -e` and `top`, 15 bytes at most."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(title.encode()[:15]))


def _prctl(option: int, value: object) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open(process: Process) -> int | None:
    """A pidfd; None when it has ended or the kernel has none (before Linux 5.3).

    The descriptor refers to `process` and no later one if that still lives afterwards.
    """
    try:
        return os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        return None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _wait(fd: int | None, timeout_s: float) -> None:
    if fd is None:
        time.sleep(min(timeout_s, _POLL_S))
    else:
        select.select([fd], [], [], timeout_s)


def _kill(pid: int) -> None:
    process = identify(pid)
    if process is not None:
        send(process, signal.SIGKILL)


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _stat(pid: int) -> list[str] | None:
    """Fields after the command's name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :].decode().split()
