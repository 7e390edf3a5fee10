"""Experts in the safetensors that models are published in: one tensor or more per matrix.

Names tried: `{layer}.{mlp,block_sparse_moe,ffn}.experts.{e}.{gate}`, `{layer}.experts.{e}.{gate}`
with the names of `PROJECTIONS`, and for BF16 the stacks `{layer}.mlp.experts.{gate_up_proj,
down_proj}`; `{layer}` with the prefixes below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kt_moe.checkpoints.named import FLOATS, PROJECTIONS, held, matrix_of
from kt_moe.checkpoints.source import LayerSource, Wanted, enough
from kt_moe.files import FileError, Tensors
from kt_moe.formats import (
    FormatError,
    Fp8Blocks,
    Fp8Rows,
    Gptq,
    Matrix,
    MxFp4,
    MxFp8,
    NvFp4,
    Plain,
    RawInt4,
)
from kt_moe.formats.load import Triple

PREFIXES = (
    "model.layers", "language_model.model.layers", "model.language_model.layers",
    "language_model.layers", "layers",
)  # fmt: skip
PLACES = ("mlp.experts", "block_sparse_moe.experts", "ffn.experts", "experts")

METHODS: dict[str, tuple[str, tuple[type[Matrix], ...]]] = {
    "BF16": (".weight", (Plain,)),
    "FP8": (".weight", (Fp8Blocks, Fp8Rows)),
    "FP8_PERCHANNEL": (".weight", (Fp8Blocks, Fp8Rows)),
    "RAWINT4": (".weight_packed", (RawInt4,)),
    "GPTQ_INT4": (".qweight", (Gptq,)),
    "MXFP4": (".weight", (MxFp4,)),
    "MXFP8": (".weight", (MxFp8,)),
    "NVFP4": (".weight", (NvFp4,)),
}
"""The ending of a matrix's main tensor, and the formats that the method means."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`key(e, i)` is the name, without its ending, of matrix `i` of expert `e`."""

    base: str
    names: tuple[str, str, str]

    def key(self, expert: int, matrix: int) -> str:
        return f"{self.base}.{expert}.{self.names[matrix]}"


def opener(method: str) -> Callable[[Path, Wanted], LayerSource]:
    ending = METHODS[method][0]

    def open_layer(path: Path, wanted: Wanted) -> LayerSource:
        tensors = Tensors.open(path)
        for layout in _layouts(wanted.layer):
            if layout.key(0, 0) + ending in tensors:
                return enough(_each(tensors, layout, method), wanted, path)
        stacks = _stacks(tensors, wanted) if method == "BF16" else None
        if stacks is None:
            tried = " or ".join(f"{place}.0.{PROJECTIONS[0][0]}{ending}" for place in PLACES)
            raise FileError(f"{path} has no {method} experts in layer {wanted.layer}", tried)
        return enough(stacks, wanted, path)

    return open_layer


def _layouts(layer: int) -> Iterator[Layout]:
    for prefix in PREFIXES:
        for place, names in product(PLACES, PROJECTIONS):
            yield Layout(f"{prefix}.{layer}.{place}", names)


def _each(tensors: Tensors, layout: Layout, method: str) -> LayerSource:
    ending, kinds = METHODS[method]
    count = 0
    while layout.key(count, 0) + ending in tensors:
        count += 1

    def read(key: str) -> Matrix:
        matrix = matrix_of(tensors, key, tensors.where)
        if not isinstance(matrix, kinds):
            raise FormatError(f"{key} is not {method}: it has {held(tensors, key)}")
        return matrix

    def triple(e: int) -> Triple:
        gate, up, down = (read(layout.key(e, i)) for i in range(3))
        return gate, up, down

    return LayerSource(count, triple)


def _stacks(tensors: Tensors, wanted: Wanted) -> LayerSource | None:
    """gate_up_proj [E, 2I, H] and down_proj [E, H, I], as transformers 5 writes them."""
    for prefix in PREFIXES:
        base = f"{prefix}.{wanted.layer}.mlp.experts"
        if f"{base}.gate_up_proj" in tensors:
            return _stacked(tensors, base, wanted)
    return None


def _stacked(tensors: Tensors, base: str, wanted: Wanted) -> LayerSource:
    half = wanted.intermediate
    both = _tagged(tensors, f"{base}.gate_up_proj")
    down = _tagged(tensors, f"{base}.down_proj")
    if both.shape[1:] != (2 * half, wanted.hidden):
        wish = ["E", 2 * half, wanted.hidden]
        raise FormatError(f"{base}.gate_up_proj is {list(both.shape)}, not {wish}")

    def triple(e: int) -> Triple:
        return Plain(both[e, :half]), Plain(both[e, half:]), Plain(down[e])

    return LayerSource(len(both), triple)


def _tagged(tensors: Tensors, name: str) -> Any:
    """The tensor, which must be of floats."""
    tag = tensors.dtype(name)
    if tag not in FLOATS:
        raise FormatError(f"{name} is {tag}, not {' or '.join(FLOATS)}")
    return tensors[name]
