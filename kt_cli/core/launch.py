"""`LaunchSpec`: how to start an engine and how to read what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a log line means: shown when `pattern` (a regular expression) matched before the end."""

    pattern: str
    what: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A log line (regular expression) that marks progress; `fraction` is how far loading is."""

    pattern: str
    name: str
    fraction: float


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    engine: str
    model: str
    """Name the server answers to."""
    argv: tuple[str, ...]
    host: str
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    ready_path: str = "/health"
    """Answers 200 once requests are served."""
    ready_timeout_s: float = 600.0
    stages: tuple[Stage, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"
