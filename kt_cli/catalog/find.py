"""A name that a user types → the `Model` it means.

In order: the demo, a path, a model in the models folder, a preset by name, alias or repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from kt_cli.catalog import demo
from kt_cli.catalog.describe import from_config
from kt_cli.catalog.local import read
from kt_cli.catalog.presets import Preset, load_presets, preset_model, presets_naming
from kt_cli.core.hints import Variant
from kt_cli.core.model import Model
from kt_cli.errors import NotFoundError


def find(name: str, home: Path | None = None, presets: Path | None = None) -> Model:
    """What is on disk is read exactly; a preset's sizes are computed (`exact` tells which).

    `home` is KT_HOME, from the environment when it is not given. Raises NotFoundError that names
    what comes close.
    """
    home = home or Path(os.environ.get("KT_HOME") or "~/.kt").expanduser()
    for layout in demo.LAYOUT_NAMES:
        if name == demo.folder_of(home, layout).name:
            return _demo(home, layout)
    path = Path(name).expanduser().absolute()
    if path.exists() and (os.sep in name or not _stored(home, name)):
        return read(path)
    local = _stored(home, name)
    if local:
        return replace(read(local), name=name)
    chosen = lookup(name, presets_naming([name], presets))
    if chosen is None:
        raise _unknown(name, home, load_presets(presets))
    model, meant = _local_or_preset(home, *chosen), chosen[0].ambiguous.get(name.lower())
    return replace(model, notes=(meant, *model.notes)) if meant else model


def lookup(name: str, presets: Sequence[Preset]) -> tuple[Preset, Variant | None] | None:
    """A preset by name, alias or repository; `name:variant`, or a variant's repository."""
    stem, _, wanted = name.partition(":")
    preset = _named(stem, presets)
    if preset and not wanted:
        return preset, None
    if preset:
        variant = preset.variant(wanted)
        return (preset, variant) if variant else None
    both = ((p, p.variant(name)) for p in presets if "/" in name)
    return next((pair for pair in both if pair[1]), None)


def _named(name: str, presets: Sequence[Preset]) -> Preset | None:
    """A name as it is written goes before an alias: `DeepSeek-V3` is not what `deepseek-v3` is."""
    wanted = name.lower()
    tests: tuple[Callable[[Preset], bool], ...] = (
        lambda preset: preset.name == name,
        lambda preset: wanted in (alias.lower() for alias in preset.aliases),
        lambda preset: preset.name.lower() == wanted,
        lambda preset: wanted in (repo.lower() for repo in preset.repos.values()),
    )
    return next((preset for test in tests for preset in presets if test(preset)), None)


def _demo(home: Path, layout: demo.LayoutName) -> Model:
    folder = demo.folder_of(home, layout)
    if demo.is_whole(folder, layout):
        return replace(read(folder), name=folder.name)
    if layout == "mixtral":
        return replace(from_config(demo.CONFIG, "demo"), path=str(folder))
    raise NotFoundError(f"{folder.name} is not there yet", "only `demo` is made on first use")


def _stored(home: Path, name: str) -> Path | None:
    """An entry of the models folder: a folder, a link or a GGUF file."""
    if "/" in name or name.startswith("."):
        return None
    place = home / "models" / name
    if place.is_dir() and not (place / "config.json").exists() and not list(place.glob("*.gguf")):
        return None
    return place if place.exists() else None


def _local_or_preset(home: Path, preset: Preset, variant: Variant | None) -> Model:
    """The model itself where it was downloaded under its repository's name."""
    repos = [variant.repo] if variant else [*preset.repos.values()]
    for repo in repos:
        local = _stored(home, repo.rpartition("/")[2])
        if local:
            return replace(read(local), repo=repo)
    return preset_model(preset, variant)


def _unknown(name: str, home: Path, presets: Sequence[Preset]) -> NotFoundError:
    import difflib

    folder = home / "models"
    stored = [p.name for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []
    names = ["demo", *stored, *(n for preset in presets for n in (preset.name, *preset.aliases))]
    close = difflib.get_close_matches(name.lower(), {n.lower(): n for n in names}, n=3, cutoff=0.5)
    hint = f"close names: {', '.join(close)}" if close else "no name comes close"
    return NotFoundError(
        f"no model is called {name!r}",
        hint,
        "give a folder, a GGUF file or a name from `kt model list`",
    )
