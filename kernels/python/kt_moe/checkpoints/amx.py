"""kt-kernel's AMXINT4 and AMXINT8 checkpoints: merged safetensors, or the folders before merging.

Safetensors: `blk.{L}.ffn_{gate|up|down}_exps.{e}.numa.{n}.{weight|scale}`. Folders:
`_layer_{L}/_numa_{n}/INT4_{gate|up|down}_{e}_{bytes}Byte_{quant|scale}_.kt`. The intermediate size
is cut into as many parts as the converter had NUMA nodes: rows of gate and up, columns of down.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kt_moe.checkpoints.source import LayerSource, Wanted, enough
from kt_moe.files import FileError, Tensors
from kt_moe.formats import AmxTiles, Codes
from kt_moe.formats.load import Triple

Parts: TypeAlias = Callable[[str, int], list[tuple[Any, Any]]]
"""(gate, up or down; expert) → data and scales of each NUMA part."""


def open_layer(path: Path, wanted: Wanted, bits: int) -> LayerSource:
    merged = path.is_file() or any(path.glob("*.safetensors"))
    count, parts = _merged(path, wanted) if merged else _folders(path, wanted, bits)
    source = LayerSource(count, lambda e: _triple(parts, e, wanted, bits))
    return enough(source, wanted, path)


def _triple(parts: Parts, e: int, wanted: Wanted, bits: int) -> Triple:
    gate, up = (_joined(parts(name, e), wanted, bits, axis=0) for name in ("gate", "up"))
    return gate, up, _joined(parts("down", e), wanted, bits, axis=1)


def _joined(parts: list[tuple[Any, Any]], wanted: Wanted, bits: int, axis: int) -> Codes:
    if not parts or wanted.intermediate % len(parts):
        raise FileError(f"{len(parts)} NUMA parts do not make {wanted.intermediate} rows")
    share = wanted.intermediate // len(parts)
    shape = (share, wanted.hidden) if axis == 0 else (wanted.hidden, share)
    tiles = [AmxTiles(data.view(np.uint8), scale, shape, bits).codes() for data, scale in parts]
    values = np.concatenate([t.values for t in tiles], axis=axis)
    return Codes(values, np.concatenate([t.scales for t in tiles], axis=axis), bits)


def _merged(path: Path, wanted: Wanted) -> tuple[int, Parts]:
    tensors = Tensors.open(path)
    base = f"blk.{wanted.layer}.ffn_{{}}_exps.{{}}.numa.{{}}"

    def parts(name: str, e: int) -> list[tuple[Any, Any]]:
        keys = [base.format(name, e, n) for n in range(nodes)]
        return [(tensors[f"{key}.weight"], tensors[f"{key}.scale"]) for key in keys]

    nodes = _consecutive(lambda n: base.format("up", 0, n) + ".weight" in tensors)
    return _consecutive(lambda e: base.format("up", e, 0) + ".weight" in tensors), parts


def _folders(path: Path, wanted: Wanted, bits: int) -> tuple[int, Parts]:
    layer = path / f"_layer_{wanted.layer}"

    def file(name: str, e: int, n: int, kind: str) -> Path | None:
        pattern = f"INT{bits}_{name}_{e}_*Byte_{kind}_.kt"
        return next((layer / f"_numa_{n}").glob(pattern), None)

    def read(name: str, e: int, n: int, kind: str) -> Any:
        found = file(name, e, n, kind)
        if found is None:
            raise FileError(f"{layer} has no {kind} of {name} of expert {e}, NUMA part {n}")
        dtype = np.dtype(np.uint8 if kind == "quant" else np.float32)
        if found.stat().st_size % dtype.itemsize:
            raise FileError(f"{found} is cut short: {found.stat().st_size} bytes")
        return np.fromfile(found, dtype)

    def parts(name: str, e: int) -> list[tuple[Any, Any]]:
        return [(read(name, e, n, "quant"), read(name, e, n, "scale")) for n in range(nodes)]

    nodes = _consecutive(lambda n: (layer / f"_numa_{n}").is_dir())
    return _consecutive(lambda e: file("up", e, 0, "quant") is not None), parts


def _consecutive(there: Callable[[int], bool]) -> int:
    """How many of 0, 1, 2, … are there before the first that is not."""
    count = 0
    while there(count):
        count += 1
    return count
