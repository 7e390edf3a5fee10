"""Doctor's verdict on captured machines."""

from __future__ import annotations

from pathlib import Path

from kt_cli.core.machine import Machine
from kt_cli.doctor import Facts, Finding, check
from kt_cli.doctor.gather import gather
from tests.probe import trees

GOLDEN = Path(__file__).parent / "golden"


def facts_of(name: str, forest: trees.Forest) -> tuple[Machine, Facts]:
    tree = forest.tree(name)
    machine = forest.machine(name)
    facts = gather(tree.host(), machine, tree.environments(), speed=None, now=lambda: 0.0)
    return machine, facts


def findings_of(name: str, forest: trees.Forest) -> tuple[Finding, ...]:
    return check(*facts_of(name, forest))
