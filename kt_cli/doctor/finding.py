"""What doctor says: one finding per thing looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info", "ok"]


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    """Stable, for scripts: numa-balancing, gpu-driver."""
    severity: Severity
    what: str
    why: str = ""
    """What it costs: speed or a failure."""
    fix: str = ""
    repair: tuple[str, ...] = ()
    """The fix as a command that is safe to run unattended: harmless, undone by a reboot."""
    topic: str = ""
    """hardware, limits, drivers, engines, storage, network."""


def error(name: str, what: str, why: str, fix: str) -> Finding:
    return Finding(name, "error", what, why, fix)


def warning(name: str, what: str, why: str, fix: str = "", repair: tuple[str, ...] = ()) -> Finding:
    return Finding(name, "warning", what, why, fix, repair)


def info(name: str, what: str, why: str = "", fix: str = "") -> Finding:
    return Finding(name, "info", what, why, fix)


def ok(name: str, what: str, why: str = "") -> Finding:
    return Finding(name, "ok", what, why)


def broken(findings: Iterable[Finding]) -> bool:
    return any(finding.severity == "error" for finding in findings)
