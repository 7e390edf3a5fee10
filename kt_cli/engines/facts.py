"""Reads what engines need and can do from `presets/engines/*.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from kt_cli.core.engine import Facts
from kt_cli.core.facts import CpuFacts, EmbeddedFacts, GpuFacts, SftFacts, SglangFacts
from kt_cli.core.serial import ShapeError, from_plain
from kt_cli.documents import read_yaml
from kt_cli.engines.registry import engines
from kt_cli.errors import EnvironmentBroken, KtError

T = TypeVar("T")


def presets_folder() -> Path:
    """`kt_cli/presets` where installed, `presets` beside `kt_cli` in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def load_yaml(path: Path) -> Any:
    """Raises EnvironmentBroken that names a missing or broken file."""
    try:
        return read_yaml(path)
    except KtError as error:
        raise _broken(path, error.why) from error


def read_facts(folder: Path | None = None) -> Facts:
    return replace(_facts(folder), engines=engines())


@cache
def _facts(folder: Path | None) -> Facts:
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


@cache
def read_cpus(folder: Path | None = None) -> tuple[CpuFacts, ...]:
    path = (folder or presets_folder()) / "machines" / "cpus.yaml"
    content = load_yaml(path)
    try:
        return tuple(
            cpu for entry in content["processors"] for cpu in _cpus(entry, content["levels"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(path, str(error)) from error


def _cpus(entry: Mapping[str, Any], levels: Mapping[str, Any]) -> Iterator[CpuFacts]:
    """One table row names processors that differ in cores and clock alone."""
    shared = {k: v for k, v in entry.items() if k not in ("level", "models")}
    for name, (cores, ghz) in entry["models"].items():
        own = {"name": str(name), "cores": cores, "ghz": ghz, "aliases": _core_names(str(name))}
        yield from_plain(CpuFacts, {**shared, **levels[entry["level"]], **own})


def _core_names(name: str) -> list[str]:
    """The i9-14900K is also sold as 14900, 14900F, 14900KF and 14900KS, Xeon W by its number."""
    if name.startswith("w"):
        return [name.partition("-")[2]]
    core = name.startswith("i") and name.endswith("K")
    return [name.removesuffix("K") + end for end in ("", "F", "KF", "KS")] if core else []


def _read(cls: type[T], path: Path) -> T:
    try:
        return from_plain(cls, load_yaml(path))
    except ShapeError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, why: str) -> EnvironmentBroken:
    return EnvironmentBroken(f"cannot read {path}", why, "install kt-cli again")
