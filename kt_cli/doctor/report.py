"""Findings as a person reads them: by topic, worst at the end in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kt_cli.doctor.finding import Finding, Severity

Paint = Callable[[Severity, str], str]
WIDTH = 9


def plain(severity: Severity, text: str) -> str:
    return text


def lines(findings: Sequence[Finding], paint: Paint = plain) -> list[str]:
    """`paint` may colour a severity's word."""
    shown: list[str] = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        shown += ["", topic]
        for finding in findings:
            if finding.topic == topic:
                shown += _finding(finding, paint)
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


def _finding(finding: Finding, paint: Paint) -> list[str]:
    word = paint(finding.severity, finding.severity)
    shown = [f"  {word}{' ' * (WIDTH - len(finding.severity))}{finding.what}"]
    pad = " " * (WIDTH + 2)
    if finding.why:
        shown.append(f"{pad}why: {finding.why}")
    if finding.fix:
        shown.append(f"{pad}fix: {finding.fix}")
    return shown


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number > 1 else ''}" if number else ""
