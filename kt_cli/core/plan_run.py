"""`plan_run`: from a machine, a model and wishes to a plan for serving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Decision, Plan, Source
from kt_cli.core.plan_embedded import Case, plan_embedded
from kt_cli.core.wishes import Wishes

if TYPE_CHECKING:
    from kt_cli.options import RunOptions


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engines need and can do."""

    embedded: EmbeddedFacts


@dataclass(frozen=True, slots=True)
class Origins:
    """Who decided the fields of the options, where it was not a flag."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def plan_run(
    machine: Machine,
    model: Model,
    options: RunOptions,
    facts: Facts,
    origins: Origins | None = None,
) -> Plan:
    """Every value in `options` is a constraint; the rest is solved around it."""
    said = origins or Origins()
    wishes = Wishes(options, said.sources, said.words)
    plan = plan_embedded(Case(machine, model, wishes, facts.embedded))
    return replace(plan, decisions=(_engine(wishes), *plan.decisions))


def _engine(wishes: Wishes) -> Decision:
    return wishes.settle("engine", "engine", "embedded", "serves on any machine")
