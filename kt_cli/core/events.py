"""Events of a starting, running and ending engine, in the order they happen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Starting:
    name: str
    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class Progress:
    stage: str
    fraction: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    url: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine ended or never became ready; the three sentences a person reads."""

    what: str
    why: str
    fix: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stopped:
    by: str
    """user, signal or engine."""


Event = Starting | Progress | Ready | Failed | Stopped
