"""Managed environments: what each engine's environment holds, from `presets/engines`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kt_cli.core.serial import ShapeError, from_plain
from kt_cli.engines.facts import load_yaml, presets_folder
from kt_cli.errors import EnvironmentBroken, NotFoundError

__all__ = ["EnvironmentSpec", "Locked", "batches", "locked", "presets_folder", "spec_of", "specs"]


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """An engine's environment; `disk` is in bytes, `python` a range such as `>=3.11,<3.14`."""

    name: str
    purpose: str
    requires: tuple[str, ...]
    python: str
    disk: int
    resolve: bool = False
    """The installer adds what the packages themselves require: the lock is not the whole set."""
    linked: bool = False
    """kt_cli and kt_moe are linked in."""


@dataclass(frozen=True, slots=True)
class Locked:
    """One package of a lock; `bytes` is the size of its wheel, `marker` a condition or empty."""

    name: str
    version: str
    marker: str
    bytes: int

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Lock:
    packages: tuple[Locked, ...]
    digest: str
    """Of the lock's text: an environment built from another one is out of date."""

    @property
    def bytes(self) -> int:
        return sum(package.bytes for package in self.packages)


@cache
def specs() -> tuple[EnvironmentSpec, ...]:
    path = presets_folder() / "engines" / "environments.yaml"
    try:
        return tuple(from_plain(EnvironmentSpec, entry) for entry in load_yaml(path))
    except ShapeError as error:
        raise _broken(path, str(error)) from error


def spec_of(name: str) -> EnvironmentSpec:
    """Raises NotFoundError that lists the known ones."""
    for spec in specs():
        if spec.name == name.lower():
            return spec
    known = ", ".join(f"`{spec.name}`" for spec in specs())
    raise NotFoundError(f"no engine is called {name!r}", "", f"known are {known}")


def locked(spec: EnvironmentSpec, environment: Mapping[str, str]) -> Lock:
    """The packages of `spec` for an interpreter; `environment` as PEP 508 names its facts."""
    from packaging.markers import Marker

    path = presets_folder() / "engines" / "locks" / f"{spec.name}.txt"
    try:
        text = path.read_text(encoding="utf-8")
        everything = tuple(_parse(text))
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    fitting = (p for p in everything if not p.marker or Marker(p.marker).evaluate(environment))
    return Lock(tuple(fitting), hashlib.sha256(text.encode()).hexdigest()[:16])


def batches(packages: Sequence[Locked], limit: int) -> Iterator[tuple[Locked, ...]]:
    """Runs of packages of at most `limit` bytes, or of one package that is larger."""
    batch: list[Locked] = []
    for package in packages:
        if batch and sum(p.bytes for p in batch) + package.bytes > limit:
            yield tuple(batch)
            batch = []
        batch.append(package)
    if batch:
        yield tuple(batch)


def _parse(text: str) -> Iterator[Locked]:
    for line in text.splitlines():
        body, _, size = (part.strip() for part in line.partition("#"))
        if body:
            requirement, _, marker = (part.strip() for part in body.partition(";"))
            name, _, version = requirement.partition("==")
            yield Locked(name, version, marker, int(size))


def _broken(path: Path, why: str) -> EnvironmentBroken:
    return EnvironmentBroken(f"cannot read {path}", why, "install kt-cli again")
