"""`Plan`: where every byte goes, how fast it will be, and why. Versioned plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

PLAN_VERSION = 1

Source = Literal[
    "flag", "environment", "config", "profile", "preset", "wizard", "measured", "derived"
]
Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One value the plan settled on, why, and who decided."""

    name: str
    value: Any
    why: str
    source: Source = "derived"


class Kind(str, Enum):
    """What a line of the ledger is, where code must tell; its name is for people alone."""

    EXPERTS = "experts"
    WEIGHTS = "weights"
    EMBEDDING = "embedding"
    VISION = "vision"
    DRAFT = "draft"
    ABSORBED = "absorbed"
    """Copies of MLA's up-projection."""
    ADAPTER = "adapter"
    CACHE = "cache"
    STATES = "states"
    STAGING = "staging"
    SLOT = "slot"
    """A layer of experts in layer-wise prefill."""
    WORKSPACE = "workspace"
    BUFFERS = "buffers"
    """Of our expert kernels."""
    SCRATCH = "scratch"
    """Of kt-kernel's."""
    PINNED = "pinned"
    LOADING = "loading"
    LIBRARIES = "libraries"
    HOST_CUDA = "host_cuda"
    OTHER = "other"


BODY = (Kind.WEIGHTS, Kind.EMBEDDING, Kind.VISION, Kind.DRAFT)
"""Weights that are no routed experts."""


@dataclass(frozen=True, slots=True)
class Item:
    """A line of the ledger: `bytes` needed for `name`, computed by `formula`."""

    name: str
    bytes: int
    formula: str
    kind: Kind = Kind.OTHER


@dataclass(frozen=True, slots=True)
class Pool:
    """One place where bytes live: a GPU, a NUMA node or a disk."""

    name: str
    capacity: int
    free: int
    """Free before this plan's items are placed."""
    items: tuple[Item, ...] = ()
    margin: int = 0
    label: str = ""
    hard: bool = False
    """What other programs hold cannot be had: only what is free now counts."""

    @property
    def used(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def left(self) -> int:
        """Free after the plan, margin kept; negative when the plan does not fit."""
        return self.free - self.used - self.margin

    @property
    def short(self) -> int:
        """Bytes missing even where other programs are closed; 0 where the plan fits."""
        return max(0, -self.left if self.hard else self.used + self.margin - self.capacity)


@dataclass(frozen=True, slots=True)
class Fix:
    """A way out of a problem and what it gains."""

    action: str
    effect: str
    flag: str = ""
    model: str = ""
    """Another checkpoint to name instead, where that is the way."""


@dataclass(frozen=True, slots=True)
class Problem:
    what: str
    why: str
    severity: Severity = "error"
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, slots=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Predicted ranges: tokens/s of prefill and decode, seconds of loading; limits in words."""

    decode: Range | None = None
    prefill: Range | None = None
    load_s: Range | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    model: str
    path: str
    machine: str
    engine: str
    pools: tuple[Pool, ...]
    decisions: tuple[Decision, ...]
    problems: tuple[Problem, ...] = ()
    speed: Speed = field(default_factory=Speed)
    version: int = PLAN_VERSION
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """What must be the same for a replay: hashes of machine, model and options."""

    @property
    def fits(self) -> bool:
        return not any(p.severity == "error" for p in self.problems)

    def decision(self, name: str) -> Decision:
        """Raises KeyError for a name the plan did not decide."""
        for decision in self.decisions:
            if decision.name == name:
                return decision
        raise KeyError(name)

    def value(self, name: str, default: Any = None) -> Any:
        return next((d.value for d in self.decisions if d.name == name), default)
