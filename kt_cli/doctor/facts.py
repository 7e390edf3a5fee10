"""What doctor needs to know beyond the `Machine`. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Dimm:
    """A slot for memory; size 0 when it is empty. Speeds in MT/s."""

    slot: str
    bank: str
    size: int
    rated: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Packages:
    """The distributions of one environment; `name` is empty for the one that runs kt."""

    name: str
    python: str
    versions: Mapping[str, str]
    pins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Distribution → what it wants exactly: {"sglang-kt": {"torch": "2.9.1"}}."""


@dataclass(frozen=True, slots=True)
class Hub:
    endpoint: str
    problem: str = ""
    offline: bool = False
    """Nothing answered (or HF_HUB_OFFLINE is set): not the same as a refusal."""
    clock_ahead: float | None = None
    """Seconds by which this clock is ahead of the hub's."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A field at its default was not looked at or could not be read."""

    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Name in /proc/self/limits → (soft, hard); inf for unlimited."""
    shm: int | None = None
    scaling_driver: str = ""
    binding: str | None = None
    """Empty when memory can be bound to a node, else the error's name: EPERM."""
    dimms: tuple[Dimm, ...] = ()
    scripts: tuple[tuple[str, str], ...] = ()
    """(path, import package) of each `kt` on PATH, in the shell's order."""
    packages: tuple[Packages, ...] = ()
    read_gbs: Mapping[str, float] = field(default_factory=dict)
    """Place → speed of a first read, GB/s."""
    packs: int = 0
    """Bytes of packed experts that are kept in kt's home."""
    hub: Hub | None = None
    now: float = 0.0
    """This clock, seconds since 1970."""
    installed: float = 0.0
    """When kt's own files were written: the clock cannot be before that."""
