"""Findings as a person reads them: by topic, worst at the end in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kt_cli.doctor.finding import Finding, Severity

WIDTH = 9


class Line(NamedTuple):
    text: str
    severity: Severity | None = None
    """Where `text` begins with a finding's severity, after two spaces."""


def lines(findings: Sequence[Finding]) -> list[Line]:
    shown: list[Line] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        shown += [Line(""), Line(topic)]
        for finding in findings:
            if finding.topic == topic:
                shown += _finding(finding)
    return shown


def summary(findings: Sequence[Finding]) -> str:
    counts = [
        _count(sum(f.severity == severity for f in findings), word)
        for severity, word in (("error", "error"), ("warning", "warning"))
    ]
    said = ", ".join(count for count in counts if count)
    if not said:
        return "nothing is wrong"
    safe = sum(bool(finding.repair) for finding in findings)
    return said + (f"; `kt doctor --fix` can mend {safe}" if safe else "")


def _finding(finding: Finding) -> list[Line]:
    pad = " " * (WIDTH + 2)
    shown = [Line(f"  {finding.severity:<{WIDTH}}{finding.what}", finding.severity)]
    if finding.why:
        shown.append(Line(f"{pad}why: {finding.why}"))
    if finding.fix:
        shown.append(Line(f"{pad}fix: {finding.fix}"))
    return shown


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}" if number else ""
