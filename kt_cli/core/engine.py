"""`Engine`: what planning must know of an engine. The planner gets its engines as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from kt_cli.core.adapter import Adapter
from kt_cli.core.facts import EmbeddedFacts, SglangFacts
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Fix, Item, Plan
from kt_cli.core.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engines need and can do."""

    embedded: EmbeddedFacts
    sglang: SglangFacts
    engines: tuple[Engine, ...] = ()
    """In order of preference."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a plan is made from."""

    machine: Machine
    model: Model
    wishes: Wishes
    facts: Facts
    hints: Hints = field(default_factory=Hints)
    adapter: Adapter | None = None


class Engine(ABC):
    """An engine that knows how to plan a model on a machine."""

    name: str
    title: str
    """As people call it."""
    reason: str = "it serves this model here"
    """Why it is taken where no engine before it was refused."""
    way_out: str = ""
    """What it offers where the plan of another engine does not fit; empty for nothing."""
    maps_tables: bool = False
    """Look-up tables stay on disk and take no RAM."""

    @abstractmethod
    def plan(self, case: Case, *, alternatives: bool = False) -> Plan:
        """`alternatives`: other formats of the experts are planned too, to be shown."""

    def unknown(self, case: Case) -> str:
        """Why it does not know the model on any machine, empty where it does."""
        return ""

    def obstacle(self, case: Case) -> str:
        """Why it cannot serve the model on this machine, empty where it can."""
        return self.unknown(case)

    def cure(self, case: Case) -> Fix | None:
        """What removes the obstacle."""
        return None

    def better(self, case: Case, other: Engine) -> str:
        """Why `other` serves the model better, where this engine can serve it too."""
        return ""

    def written(self, case: Case, plan: Plan) -> tuple[Item, ...]:
        """What is written to disk before or at the first start."""
        return ()
