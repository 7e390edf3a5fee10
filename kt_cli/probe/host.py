"""Where facts come from: a root for /proc and /sys, and the few calls that no file answers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kt_cli import children
from kt_cli.probe import answers

MISSING = 127
TIMED_OUT = 124


class Ran(NamedTuple):
    """A tool's output and exit code: negative for a signal, 127 missing, 124 timed out."""

    code: int
    out: str = ""
    err: str = ""

    @property
    def problem(self) -> str:
        """Empty when the tool succeeded, otherwise how it ended in words."""
        if self.code == 0:
            return ""
        if self.code < 0:
            return f"died of {signal_name(-self.code)}"
        known = {MISSING: "is not installed", TIMED_OUT: "did not answer in time"}
        return known.get(self.code, f"exited with code {self.code}")


Tool = Callable[[Sequence[str], float], Ran]


def signal_name(number: int) -> str:
    """SIGILL (illegal instruction), and the number alone for a signal Python does not know."""
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    said = signal.strsignal(number)
    return f"{known.name} ({said.lower()})" if said else known.name


def run_tool(argv: Sequence[str], timeout: float) -> Ran:
    """Runs a tool to its end; never raises for a tool that is missing, slow or crashing."""
    from subprocess import TimeoutExpired  # 8 ms that most probes can do without

    try:
        done = children.run(argv, timeout_s=timeout)
    except TimeoutExpired as slow:
        return Ran(TIMED_OUT, _decoded(slow.stdout), _decoded(slow.stderr))
    except OSError as error:
        return Ran(MISSING, "", str(error))
    return Ran(done.returncode, _decoded(done.stdout), _decoded(done.stderr))


def load_cpuid() -> Mapping[str, Any]:
    from cpuinfo import get_cpu_info

    found: Mapping[str, Any] = get_cpu_info()
    return found


def load_nvml() -> Any:
    """The NVML binding; ImportError where nvidia-ml-py is not installed."""
    import pynvml

    return pynvml


def disk_usage(path: Path) -> tuple[int, int]:
    """(total, free for this user) in bytes; OSError where the path cannot be read."""
    stats = os.statvfs(path)
    return stats.f_blocks * stats.f_frsize, stats.f_bavail * stats.f_frsize


def libc_version() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    except (ValueError, OSError):
        return ""


def python_version() -> str:
    return ".".join(map(str, sys.version_info[:3]))


@dataclass(frozen=True, slots=True)
class Host:
    """A machine to read: this one by default, a captured tree in tests."""

    root: Path = Path("/")
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    run: Tool = run_tool
    nvml: Callable[[], Any] = load_nvml
    cpuid: Callable[[], Mapping[str, Any]] | None = None
    """Identity of the CPU by its own instruction; None for py-cpuinfo on this machine, and for
    nothing on a captured one."""
    usage: Callable[[Path], tuple[int, int]] = disk_usage
    glibc: str = field(default_factory=libc_version)
    python: str = field(default_factory=python_version)

    @property
    def live(self) -> bool:
        return self.root == Path("/")

    def cpu_identity(self) -> Mapping[str, Any]:
        """Keys as py-cpuinfo has them; it takes a second, so it is asked where /proc is silent."""
        if self.cpuid is None and not self.live:
            return {}
        try:
            return (self.cpuid or load_cpuid)()
        except Exception:  # whatever a foreign library raises means that it does not know
            return {}

    def path(self, name: str) -> Path:
        """`name` is absolute or relative to the root: /proc/meminfo, sys/block."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """The file's stripped content, empty when it cannot be read."""
        try:
            return self.path(name).read_text(encoding="utf-8", errors="replace").strip()
        except (OSError, ValueError):
            return ""

    def number(self, name: str) -> int | None:
        """The file's content as an integer (decimal or 0x…), None when it is not one."""
        return answers.number(self.text(name), least=-1)

    def exists(self, name: str) -> bool:
        try:
            return self.path(name).exists()
        except (OSError, ValueError):
            return False

    def is_file(self, name: str) -> bool:
        try:
            return self.path(name).is_file()
        except (OSError, ValueError):
            return False

    def names(self, directory: str, prefix: str = "") -> list[str]:
        """Sorted names in a directory, numbered ones (cpu2, cpu10) in numeric order."""
        try:
            found = [p.name for p in self.path(directory).iterdir() if p.name.startswith(prefix)]
        except OSError:
            return []
        return sorted(found, key=lambda n: (_digits(n), n))


def _digits(name: str) -> int:
    tail = name[len(name.rstrip("0123456789")) :]
    return int(tail) if tail else -1


def _decoded(data: object) -> str:
    if isinstance(data, bytes):
        return data.decode(errors="replace")
    return data if isinstance(data, str) else ""
