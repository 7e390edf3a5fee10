"""Experts in the safetensors that models are published in: one tensor or more per matrix.

Names tried: `{layer}.mlp.experts.{e}.{gate,up,down}_proj`, `{layer}.block_sparse_moe.experts.{e}.
{w1,w3,w2}`, `{layer}.ffn.experts.{e}.{w1,w3,w2}`, `{layer}.experts.{e}.{w1,w3,w2}`, and for BF16
the stacks `{layer}.mlp.experts.{gate_up_proj,down_proj}`; `{layer}` with the prefixes below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

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
from kt_moe.formats.floats import from_bf16
from kt_moe.formats.fp8 import BLOCK
from kt_moe.formats.load import Triple

PREFIXES = (
    "model.layers", "language_model.model.layers", "model.language_model.layers",
    "language_model.layers", "layers",
)  # fmt: skip
LAYOUTS = (
    ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    ("block_sparse_moe.experts", ("w1", "w3", "w2")),
    ("ffn.experts", ("w1", "w3", "w2")),
    ("experts", ("w1", "w3", "w2")),
)
FP8 = ("F8_E4M3",)
BYTES = ("U8", "I8")

Reader: TypeAlias = Callable[[Tensors, str], Matrix]


@dataclass(frozen=True, slots=True)
class Layout:
    """`key(e, i)` is the name, without its ending, of matrix `i` of expert `e`."""

    base: str
    names: tuple[str, str, str]

    def key(self, expert: int, matrix: int) -> str:
        return f"{self.base}.{expert}.{self.names[matrix]}"


def opener(method: str) -> Callable[[Path, Wanted], LayerSource]:
    ending, read = READERS[method]

    def open_layer(path: Path, wanted: Wanted) -> LayerSource:
        tensors = Tensors.open(path)
        for layout in _layouts(wanted.layer):
            if layout.key(0, 0) + ending in tensors:
                return enough(_each(tensors, layout, ending, read), wanted, path)
        stacks = _stacks(tensors, wanted) if method == "BF16" else None
        if stacks is None:
            tried = " or ".join(f"{a}.0.{names[0]}{ending}" for a, names in LAYOUTS)
            raise FileError(f"{path} has no {method} experts in layer {wanted.layer}", tried)
        return enough(stacks, wanted, path)

    return open_layer


def _layouts(layer: int) -> Iterator[Layout]:
    for prefix in PREFIXES:
        for path, names in LAYOUTS:
            yield Layout(f"{prefix}.{layer}.{path}", names)


def _each(tensors: Tensors, layout: Layout, ending: str, read: Reader) -> LayerSource:
    count = 0
    while layout.key(count, 0) + ending in tensors:
        count += 1

    def triple(e: int) -> Triple:
        gate, up, down = (read(tensors, layout.key(e, i)) for i in range(3))
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
    tags, half = ("BF16", "F16", "F32"), wanted.intermediate
    both = _tagged(tensors, f"{base}.gate_up_proj", tags)
    down = _tagged(tensors, f"{base}.down_proj", tags)
    if both.shape[1:] != (2 * half, wanted.hidden):
        wish = ["E", 2 * half, wanted.hidden]
        raise FormatError(f"{base}.gate_up_proj is {list(both.shape)}, not {wish}")

    def triple(e: int) -> Triple:
        return Plain(both[e, :half]), Plain(both[e, half:]), Plain(down[e])

    return LayerSource(len(both), triple)


def _tagged(tensors: Tensors, name: str, tags: tuple[str, ...]) -> Any:
    """The tensor, whose dtype must be one of the tags."""
    tag = tensors.dtype(name)
    if tag not in tags:
        raise FormatError(f"{name} is {tag}, not {' or '.join(tags)}")
    return tensors[name]


def _floats(tensors: Tensors, name: str) -> Any:
    """A small float tensor, such as scales, as float32."""
    values = _tagged(tensors, name, ("F32", "BF16", "F16"))
    return from_bf16(values) if tensors.dtype(name) == "BF16" else values.astype(np.float32)


def _bf16(tensors: Tensors, key: str) -> Matrix:
    return Plain(_tagged(tensors, f"{key}.weight", ("BF16", "F16", "F32")))


def _fp8(tensors: Tensors, key: str) -> Matrix:
    weight = _tagged(tensors, f"{key}.weight", FP8)
    name = f"{key}.weight_scale_inv"
    scale = _floats(tensors, name if name in tensors else f"{key}.weight_scale")
    n, k = weight.shape
    blocks = scale.shape == (-(-n // BLOCK), -(-k // BLOCK))
    return Fp8Blocks(weight, scale) if blocks else Fp8Rows(weight, scale)


def _rawint4(tensors: Tensors, key: str) -> Matrix:
    weight = _tagged(tensors, f"{key}.weight_packed", ("I32", "U8"))
    return RawInt4(weight, _floats(tensors, f"{key}.weight_scale"))


def _gptq(tensors: Tensors, key: str) -> Matrix:
    names = (f"{key}.qzeros", f"{key}.g_idx")
    zeros, order = (tensors[n] if n in tensors else None for n in names)  # noqa: SIM401
    qweight = _tagged(tensors, f"{key}.qweight", ("I32",))
    scales = _floats(tensors, f"{key}.scales")
    return Gptq(qweight, scales, zeros, order, _gptq_v2(tensors.where))


@cache
def _gptq_v2(where: Path) -> bool:
    """Whether the configuration beside the files names the format that stores zero points whole."""
    folder = where if where.is_dir() else where.parent
    for name in ("quantize_config.json", "config.json"):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_bytes())
            settings = settings.get("quantization_config", settings)
            if "checkpoint_format" in settings:
                return bool(settings["checkpoint_format"] == "gptq_v2")
    return False


def _mxfp4(tensors: Tensors, key: str) -> Matrix:
    weight = _tagged(tensors, f"{key}.weight", BYTES).view(np.uint8)
    return MxFp4(weight, _tagged(tensors, f"{key}.scale", ("F8_E8M0", "U8")))


def _mxfp8(tensors: Tensors, key: str) -> Matrix:
    scale = _tagged(tensors, f"{key}.weight_scale_inv", ("U8", "F8_E8M0"))
    return MxFp8(_tagged(tensors, f"{key}.weight", FP8), scale)


def _nvfp4(tensors: Tensors, key: str) -> Matrix:
    whole = _floats(tensors, f"{key}.weight_scale_2").reshape(-1)
    if whole.size != 1:
        raise FormatError(f"{key}.weight_scale_2 has {whole.size} values, not 1")
    weight = _tagged(tensors, f"{key}.weight", BYTES).view(np.uint8)
    scale = _tagged(tensors, f"{key}.weight_scale", FP8)
    return NvFp4(weight, scale, float(whole[0]))


READERS: dict[str, tuple[str, Reader]] = {
    "BF16": (".weight", _bf16),
    "FP8": (".weight", _fp8),
    "FP8_PERCHANNEL": (".weight", _fp8),
    "RAWINT4": (".weight_packed", _rawint4),
    "GPTQ_INT4": (".qweight", _gptq),
    "MXFP4": (".weight", _mxfp4),
    "MXFP8": (".weight", _mxfp8),
    "NVFP4": (".weight", _nvfp4),
}
