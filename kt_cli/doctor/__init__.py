"""Says what is wrong with a machine, what it costs and how to mend it; facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from kt_cli.core.machine import Machine
from kt_cli.doctor import drivers, engines, hardware, limits, network, storage
from kt_cli.doctor.facts import Facts
from kt_cli.doctor.finding import Finding, broken

__all__ = ["Facts", "Finding", "broken", "check"]

CHECKS: Mapping[str, Callable[[Machine, Facts], Iterator[Finding]]] = {
    "hardware": hardware.check,
    "limits": limits.check,
    "drivers": drivers.check,
    "engines": engines.check,
    "storage": storage.check,
    "network": network.check,
}


def check(machine: Machine, facts: Facts) -> tuple[Finding, ...]:
    """All findings, the good ones too, topic by topic."""
    return tuple(
        replace(finding, topic=topic)
        for topic, look in CHECKS.items()
        for finding in look(machine, facts)
    )
