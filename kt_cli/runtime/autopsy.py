"""Why an engine ended: from its wait status, its log and what the kernel says about memory."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kt_cli.core.events import Failed
from kt_cli.runtime.watch import LogWatch
from kt_cli.runtime.workers import Lost

_SIGNALS: Mapping[int, tuple[str, str]] = {
    signal.SIGILL: (
        "the processor does not know an instruction that the engine used",
        "`kt doctor` shows which instruction sets this processor has",
    ),
    signal.SIGSEGV: (
        "native code touched memory that is not its own",
        "`kt logs {name}` shows where; a package built for other versions is the usual cause",
    ),
    signal.SIGBUS: (
        "a mapped file became unreadable: a full /dev/shm, a full disk or a truncated checkpoint",
        "look at `df -h /dev/shm` and at the disk that holds the model",
    ),
    signal.SIGFPE: ("native code divided by zero", "`kt logs {name}` shows where"),
    signal.SIGABRT: ("native code gave up on an error it found", "`kt logs {name}` shows which"),
    signal.SIGKILL: (
        "somebody killed it: a user, a job scheduler or a memory guard",
        "start it again; if it happens again, look for who sends the signal",
    ),
    signal.SIGTERM: ("somebody asked it to end", "start it again"),
    signal.SIGHUP: ("its session was closed", "start it again"),
    signal.SIGINT: ("it was interrupted", "start it again"),
}
_OOM = (
    "the kernel's OOM killer ended it, because the memory ran out",
    "use a shorter --ctx-size, fewer --max-running-requests or a smaller model; see `kt plan`",
)


@dataclass(frozen=True, slots=True)
class OomCount:
    """Processes the OOM killer has ended so far, by the counter that tells; see `oom_count`."""

    counts: Mapping[str, int]

    def grew_since(self, before: OomCount) -> bool:
        return any(n > before.counts.get(path, n) for path, n in self.counts.items())


def oom_count(groups: tuple[Path, ...] = ()) -> OomCount:
    """Counters of the whole system and of the given control groups, those that can be read."""
    files = [Path("/proc/vmstat")]
    files += [g / f for g in groups for f in ("memory.events", "memory.oom_control")]
    found = {str(file): _oom_kills(file) for file in files}
    return OomCount({path: n for path, n in found.items() if n is not None})


def ended(name: str, status: int, was_ready: bool, log: LogWatch, oom: bool) -> Failed:
    """The failure that a wait status and a log add up to; `oom`: the OOM killer was at work."""
    number = _signal(status)
    told = _told(name, log)
    if number is None:
        code = os.waitstatus_to_exitcode(status)
        verdict = told or _exited(name, code, was_ready)
    else:
        code = 128 + number
        verdict = _killed("the engine", name, number, was_ready, oom, told)
    return dataclasses.replace(verdict, exit_code=code, log_tail=log.tail)


def lost(name: str, worker: Lost, was_ready: bool, log: LogWatch, oom: bool) -> Failed:
    """The failure of an engine that has lost a worker and would wait for it for ever."""
    number = os.WTERMSIG(worker.status)
    who = f"a worker ({worker.title or 'process'} {worker.pid})"
    verdict = _killed(who, name, number, was_ready, oom, _told(name, log))
    return dataclasses.replace(verdict, exit_code=128 + number, log_tail=log.tail)


def never_ready(name: str, timeout_s: float, log: LogWatch) -> Failed:
    told = _told(name, log)
    late = Failed(
        f"{name} was not ready after {timeout_s:g} s",
        "it still runs but does not answer requests",
        f"`kt logs {name}` shows how far it came",
    )
    return dataclasses.replace(told or late, log_tail=log.tail)


def not_started(name: str, command: str, error: str) -> Failed:
    return Failed(
        f"{name} could not be started", f"{command}: {error}", "`kt doctor` checks the engines"
    )


def _told(name: str, log: LogWatch) -> Failed | None:
    """What the engine or its log said about the end."""
    if log.failure is not None:
        return log.failure
    known = log.diagnosis
    if known is None:
        return None
    fields = {"name": name, "line": log.diagnosis_line.strip()}
    what, why, fix = (_fill(text, fields) for text in (known.what, known.why, known.fix))
    return Failed(what, why, fix)


def _killed(
    who: str, name: str, number: int, was_ready: bool, oom: bool, told: Failed | None
) -> Failed:
    if number == signal.SIGKILL and oom:
        why, fix = _OOM
    elif told is not None:
        return told
    else:
        unknown = ("nothing more is known", "`kt logs {name}` shows its last words")
        why, fix = _SIGNALS.get(number, unknown)
    what = f"{who} of {name} was killed by {_signal_name(number)}{_when(was_ready)}"
    return Failed(what, why, _fill(fix, {"name": name}))


def _exited(name: str, code: int, was_ready: bool) -> Failed:
    what = f"the engine of {name} ended with exit code {code}{_when(was_ready)}"
    return Failed(what, "it did not say why", f"`kt logs {name}` shows its last words")


def _when(was_ready: bool) -> str:
    return "" if was_ready else " while starting"


def _signal(status: int) -> int | None:
    """The signal that ended it, also when a shell or launcher reports it as 128 + number."""
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    code = os.waitstatus_to_exitcode(status)
    return code - 128 if 128 < code <= 128 + 31 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _fill(text: str, fields: Mapping[str, str]) -> str:
    """Puts {name} and {line} in; braces that mean something else stay."""
    return re.sub(r"\{(name|line)\}", lambda m: fields.get(m[1], m[0]), text)


def _oom_kills(file: Path) -> int | None:
    try:
        text = file.read_text()
    except OSError:
        return None
    match = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(match[1]) if match else None
