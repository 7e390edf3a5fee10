"""Whether what `--weights-path` names holds the experts of a model: told from headers alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli.catalog.gguf import read_gguf
from kt_cli.core.model import Experts, Model
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.modelfiles import model_at, models_at
from kt_cli.weights.headers import read_header

_EXPERT = re.compile(r"(?:layers|blk)\.(\d+)\..*?(?:experts|_exps)\.(\d+)\.")
_LAYER = re.compile(r"_layer_(\d+)")
"""Folders that kt-kernel's converter writes."""


@dataclass(frozen=True, slots=True)
class Found:
    """Layers with experts and experts a layer; 0 where that is not told."""

    layers: int
    count: int = 0
    shape: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        size = f" of {self.shape[0]} × {self.shape[1]}" if any(self.shape) else ""
        return f"{self.layers} layers of {self.count or '?'} experts{size}"


def require_experts_of(path: Path, model: Model) -> None:
    """Raises NotFoundError where nothing is there, UsageError where it is of another model."""
    if not path.exists():
        fix = "give the folder of converted expert weights, or leave `--weights-path` out"
        raise NotFoundError(f"no expert weights at {path}", "it does not exist", fix)
    if model.experts is None:
        raise UsageError(f"{model.name} has no experts", "so there are no weights to give")
    found = _from_gguf(path) or _from_headers(path, model.experts) or _from_folders(path)
    if found is None:
        why = "neither a GGUF nor safetensors or converted layers with experts are in it"
        raise UsageError(f"{path} holds no expert weights", why)
    needed = (len(model.experts.layers), model.experts.count)
    if not _alike(found, model.experts):
        why = f"it has {found}, the model {needed[0]} layers of {needed[1]} experts"
        raise UsageError(f"{path} is not of {model.name}", why, "give the folder of this model")


def _alike(found: Found, experts: Experts) -> bool:
    same = found.layers == len(experts.layers) and found.count in (0, experts.count)
    shape = (experts.hidden, experts.intermediate)
    return same and found.shape in ((0, 0), shape)


def _from_gguf(path: Path) -> Found | None:
    if not any(model.form == "gguf" for model in models_at(path)):
        return None
    experts = read_gguf(model_at(path).files).experts
    if experts is None:
        return Found(0)
    return Found(len(experts.layers), experts.count, (experts.hidden, experts.intermediate))


def _from_headers(path: Path, experts: Experts) -> Found | None:
    """Of separate experts; stacked ones tell their layers only."""
    pairs = set(_pairs(path))
    if not pairs:
        return None
    layers = {layer for layer, _ in pairs} & set(experts.layers) or {layer for layer, _ in pairs}
    return Found(len(layers), max(expert for _, expert in pairs) + 1)


def _pairs(path: Path) -> Iterator[tuple[int, int]]:
    for file in sorted(path.glob("*.safetensors")):
        for name in read_header(file):
            match = _EXPERT.search(name)
            if match:
                yield int(match[1]), int(match[2])


def _from_folders(path: Path) -> Found | None:
    layers = {int(m[1]) for p in path.glob("_layer_*") if (m := _LAYER.fullmatch(p.name))}
    return Found(len(layers)) if layers else None
