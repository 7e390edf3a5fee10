"""Carries out the fixes that are safe: settings of the running kernel, gone after a reboot."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kt_cli.doctor.finding import Finding
from kt_cli.probe.host import Tool, run_tool

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Repaired:
    name: str
    command: str
    done: bool
    problem: str = ""


def command(finding: Finding, root: bool) -> tuple[str, ...]:
    return finding.repair if root else ("sudo", "-n", *finding.repair)


def repair(
    findings: Iterable[Finding],
    agreed: Callable[[Finding, str], bool],
    run: Tool = run_tool,
    root: bool | None = None,
) -> tuple[Repaired, ...]:
    """Runs each safe fix that `agreed` (finding, command line) says yes to."""
    as_root = os.geteuid() == 0 if root is None else root
    results = []
    for finding in findings:
        if not finding.repair:
            continue
        argv = command(finding, as_root)
        line = " ".join(argv)
        if agreed(finding, line):
            ran = run(argv, TIMEOUT_S)
            said = ran.err.strip().splitlines()
            problem = " ".join([ran.problem, *said[:1]]) if ran.code else ""
            results.append(Repaired(finding.name, line, not ran.code, problem))
    return tuple(results)
