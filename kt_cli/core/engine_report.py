"""What a loaded engine really uses, held against what its plan said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_cli.core.plan import Plan

_DECISIONS: Mapping[str, str] = {
    "experts": "compute_backend",
    "format": "kt_method",
    "isa": "isa",
    "dtype": "compute_dtype",
    "threads": "cpu_threads",
    "kv_tokens": "kv_tokens",
}
"""What an engine reports → the decision that planned it."""


@dataclass(frozen=True, slots=True)
class Difference:
    name: str
    planned: str
    used: str

    def __str__(self) -> str:
        return f"{self.name}: planned {self.planned}, in use {self.used}"


@dataclass(frozen=True, slots=True)
class EngineReport:
    uses: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[Difference, ...] = ()

    def lines(self) -> list[str]:
        """What is in use, and a line for each difference; empty where nothing was reported."""
        words = ", ".join(f"{name} {value}" for name, value in self.uses.items())
        differences = [f"differs from its plan: {x}" for x in self.differences]
        return [f"in use: {words}", *differences] if words else differences


def planned_uses(plan: Plan) -> dict[str, str]:
    """What the engine should report; a decision the plan left open promises nothing."""
    values = {name: plan.value(decision) for name, decision in _DECISIONS.items()}
    return {name: str(value) for name, value in values.items() if value is not None}


def report(uses: Mapping[str, str], planned: Mapping[str, str]) -> EngineReport:
    """A model without experts reports none, and none are missed."""
    differences = (
        Difference(name, planned[name], used)
        for name, used in uses.items()
        if planned.get(name, used) != used
    )
    return EngineReport(dict(uses), tuple(differences))


def to_words(planned: Mapping[str, str]) -> str:
    """One word of a command line; `from_words` reads it."""
    return ",".join(f"{name}={value}" for name, value in planned.items())


def from_words(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split(",") if word)
    return {name: value for name, _, value in pairs}
