"""Reads what engines need and can do from `presets/engines/*.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kt_cli.core.facts import EmbeddedFacts, GpuFacts, SftFacts, SglangFacts
from kt_cli.core.plan_run import Facts
from kt_cli.core.serial import ShapeError, from_plain
from kt_cli.errors import EnvironmentBroken

T = TypeVar("T")


def presets_folder() -> Path:
    """`kt_cli/presets` where installed, `presets` beside `kt_cli` in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def load_yaml(path: Path) -> Any:
    """Raises EnvironmentBroken that names a missing or broken file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(path.read_bytes(), Loader=loader)
    except (OSError, yaml.YAMLError) as error:
        raise _broken(path, str(error)) from error


@cache
def read_facts(folder: Path | None = None) -> Facts:
    base = (folder or presets_folder()) / "engines"
    embedded = _read(EmbeddedFacts, base / "embedded.yaml")
    return Facts(embedded, _read(SglangFacts, base / "sglang.yaml"))


@cache
def read_sft(folder: Path | None = None) -> SftFacts:
    return _read(SftFacts, (folder or presets_folder()) / "engines" / "llamafactory.yaml")


@cache
def read_gpus(folder: Path | None = None) -> tuple[GpuFacts, ...]:
    path = (folder or presets_folder()) / "machines" / "gpus.yaml"
    try:
        return tuple(from_plain(GpuFacts, entry) for entry in load_yaml(path))
    except ShapeError as error:
        raise _broken(path, str(error)) from error


def _read(cls: type[T], path: Path) -> T:
    try:
        return from_plain(cls, load_yaml(path))
    except ShapeError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> EnvironmentBroken:
    return EnvironmentBroken(f"cannot read {path}", why, "install kt-cli again")
