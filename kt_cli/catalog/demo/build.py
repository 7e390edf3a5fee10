"""Builds the demo checkpoint in a folder: tensors, configuration, tokenizer, then a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kt_cli.catalog.demo.dense import Dense
from kt_cli.catalog.demo.fetch import GGUF_SHA256, REQUIREMENT
from kt_cli.catalog.demo.layouts import LAYOUTS, Layout
from kt_cli.catalog.demo.manifest import LayoutName, write_manifest
from kt_cli.catalog.demo.tokenizer import tokenizer_files
from kt_cli.weights.floats import Bits
from kt_cli.weights.gguf import GgufFile
from kt_cli.weights.headers import TensorInfo
from kt_cli.weights.writer import write_checkpoint

# The model card's temperature; narrower otherwise, for 135 M parameters at 4 bits lose the thread.
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.5, "repetition_penalty": 1.1}


def build(gguf: Path, folder: Path, layout: LayoutName, progress: Callable[[float], None]) -> None:
    """The folder is whole only once its manifest says so; memory stays at a few layers."""
    dense, plan = Dense.of(GgufFile.open(gguf)), LAYOUTS[layout]
    tensors = _announce(dense, plan)
    total = sum(info.nbytes for info in tensors)
    write_checkpoint(
        folder, tensors, _data(dense, plan), progress=lambda done: progress(done / total)
    )
    for name, content in _texts(dense, plan).items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), "utf-8")
    write_manifest(folder, layout, {"package": REQUIREMENT, "gguf_sha256": GGUF_SHA256})


def _announce(dense: Dense, plan: Layout) -> list[TensorInfo]:
    """Every layer has the shapes of the first."""
    first = list(plan.layer(dense, plan.split, 0))
    layers = [
        TensorInfo(f"model.layers.{index}.{name}", "BF16", array.shape)
        for index in range(dense.layers)
        for name, array in first
    ]
    return [*(TensorInfo(name, "BF16", array.shape) for name, array in plan.outer(dense)), *layers]


def _data(dense: Dense, plan: Layout) -> Iterator[Bits]:
    """Computes the next layer while the caller writes the last one."""

    def layer(index: int) -> list[Bits]:
        return [array for _, array in plan.layer(dense, plan.split, index)]

    with ThreadPoolExecutor(1) as worker:
        ahead = worker.submit(layer, 0)
        yield from (array for _, array in plan.outer(dense))
        for index in range(dense.layers):
            arrays = ahead.result()
            if index + 1 < dense.layers:
                ahead = worker.submit(layer, index + 1)
            yield from arrays


def _texts(dense: Dense, plan: Layout) -> dict[str, Any]:
    config = plan.config(dense, plan.split)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {
        "config.json": config,
        "generation_config.json": {**ids, **SAMPLING},
        **tokenizer_files(dense.gguf.metadata),
    }
