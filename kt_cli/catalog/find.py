"""A name that a user types → the `Model` it means.

In order: the demo, a path, a model in the models folder, a preset by name, alias or repository,
which is read itself where it was pulled or is in the user's Hugging Face cache.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kt_cli.catalog import demo
from kt_cli.catalog.cached import cached
from kt_cli.catalog.describe import from_config
from kt_cli.catalog.local import read
from kt_cli.catalog.names import ambiguity, lookup, not_found, only_kin
from kt_cli.catalog.presets import Preset, load_presets, preset_model
from kt_cli.core.hints import Variant
from kt_cli.core.model import Model
from kt_cli.environment import kt_home
from kt_cli.errors import NotFoundError, TransferError
from kt_cli.modelfiles import CONFIG, models_at


def find(name: str, home: Path | None = None, presets: Path | None = None) -> Model:
    """What is on disk is read exactly; a preset's sizes are computed (`exact` tells which).

    `home` is KT_HOME, from the environment when it is not given. Raises NotFoundError that names
    what comes close.
    """
    home = home or kt_home()
    for layout in demo.LAYOUT_NAMES:
        if name == demo.folder_of(home, layout).name:
            return _demo(home, layout)
    path = Path(name).expanduser().absolute()
    if path.exists() and (os.sep in name or not _stored(home, name)):
        return read(path)
    local = _stored(home, name)
    if local:
        return replace(read(local), name=name)
    preset, variant = meaning(name, home, load_presets(presets))
    model, meant = _local_or_preset(home, preset, variant), ambiguity(name, preset)
    return replace(model, notes=(meant, *model.notes)) if meant else model


def meaning(name: str, home: Path, presets: Sequence[Preset]) -> tuple[Preset, Variant | None]:
    """Raises NotFoundError that lists kin or close names."""
    chosen = lookup(name, presets)
    if chosen is None and (alone := only_kin(name, presets)):
        chosen = alone, None
    if chosen is None:
        raise _unknown(name, home, presets)
    return chosen


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
    return place if models_at(place) or (place / CONFIG).is_file() else None


def _local_or_preset(home: Path, preset: Preset, variant: Variant | None) -> Model:
    """The model itself where it was pulled under its repository's name, or is in the cache."""
    repos = [variant.repo] if variant else [*preset.repos.values()]
    for repo in repos:
        local = _stored(home, repo.rpartition("/")[2])
        if local:
            return replace(read(local), repo=repo)
    notes: list[str] = []
    for repo in repos:
        try:
            if model := cached(repo):
                return model
        except TransferError as error:  # the preset can be planned all the same
            notes.append(f"{error.what} ({error.why}); {error.fix}")
    model = preset_model(preset, variant)
    return replace(model, notes=(*notes, *model.notes))


def _unknown(name: str, home: Path, presets: Sequence[Preset]) -> NotFoundError:
    folder = home / "models"
    stored = [p.name for p in folder.iterdir() if p.name[0] != "."] if folder.is_dir() else []
    return not_found(name, presets, ["demo", *stored])
