"""A checkpoint on this machine → `Model`: configuration and tensor headers, never the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_cli.catalog.describe import from_tensors
from kt_cli.catalog.quantization_config import with_quantization
from kt_cli.core.model import Model
from kt_cli.documents import read_json
from kt_cli.modelfiles import CONFIG, model_at
from kt_cli.weights.index import read_shards


def read(path: Path) -> Model:
    """A folder with config.json and safetensors, or a GGUF file or folder of such.

    Raises NotFoundError where something is missing, TransferError where something is damaged,
    KtError where something is not known.
    """
    path = path.expanduser()
    found = model_at(path)
    if found.form == "gguf":
        from kt_cli.catalog.gguf import read_gguf

        return read_gguf(found.files)
    values = with_quantization(read_json(path / CONFIG).values, lambda name: _beside(path / name))
    tensors = (info for held in read_shards(path).values() for info in held.values())
    model = from_tensors(values, tensors, path.resolve().name, str(path))
    return replace(model, path=str(path))


def _beside(file: Path) -> Mapping[str, Any]:
    return read_json(file).values if file.exists() else {}
