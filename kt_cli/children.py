"""Programs that work for this process and end with it, however it ends.

The kernel kills such a program when the thread that started it ends (PR_SET_PDEATHSIG), so a killed
`kt` leaves no `pip` behind. Servers are another matter: see `runtime.keeper`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

_PR_SET_PDEATHSIG = 1


def run(
    argv: Sequence[str], *, timeout_s: float | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A program's output and exit code. Raises OSError, and TimeoutExpired after killing it."""
    import subprocess  # 8 ms that most commands can do without

    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_s,
        env=env,
        check=False,
        preexec_fn=ends_with_parent(),
    )


@contextmanager
def started(
    argv: Sequence[str], output: IO[bytes], env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that writes to `output`; it and what it started are killed when the block ends."""
    import subprocess

    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
        preexec_fn=ends_with_parent(),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answering(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[str]:
    """A program that reads lines, answers lines and ends with its stdin, as it does with its owner.

    Without a signal for the owner's end: that takes a fork, which copies the page tables of a
    process that maps a whole model. Raises OSError.
    """
    import subprocess

    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, encoding="utf-8"
    )


def ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    from subprocess import TimeoutExpired

    with suppress(TimeoutExpired):
        process.wait(timeout=within_s)
    return process.returncode is not None


def ends_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """For `preexec_fn`: the child gets this signal when its parent ends. None where the kernel
    cannot do that."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    _prctl()  # loaded before the fork, after which locks of other threads stay taken
    return lambda: die_with_parent(number, parent)


def die_with_parent(number: signal.Signals, parent: int) -> None:
    """Asks the kernel for this signal when the parent ends; ends at once if it is gone already."""
    _prctl()(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@cache
def _prctl() -> Any:
    import ctypes

    return ctypes.CDLL(None).prctl
