"""What a preset recommends for a model: limits, flags, sampling, other checkpoints, caveats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Variant:
    """Another checkpoint of the same model."""

    name: str
    method: str
    repo: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Hints:
    tp_max: int | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    variants: tuple[Variant, ...] = ()
    notes: tuple[str, ...] = ()
