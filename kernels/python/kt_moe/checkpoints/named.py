"""One matrix of a published checkpoint, told by the tensors that stand under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from kt_moe.files.text import json_object
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import Array, Floats, from_bf16, from_e8m0
from kt_moe.formats.fp8 import Fp8Blocks, Fp8Rows
from kt_moe.formats.matrix import Matrix, Plain
from kt_moe.formats.mx import MxFp4, MxFp8, NvFp4
from kt_moe.formats.packed import Awq, Gptq, RawInt4

PROJECTIONS = (
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("gate", "up", "down"),
)
"""What the families call gate, up and down of an expert."""

SUFFIXES = (
    "weight", "weight_scale_inv", "weight_scale", "weight_scale_2", "scale", "weight_packed",
    "weight_global_scale", "weight_zero_point", "qweight", "scales", "qzeros", "g_idx",
)  # fmt: skip
FLOATS = ("BF16", "F16", "F32")
POWERS = ("F8_E8M0", "U8")
"""Dtypes of scales that are powers of two."""


class Tensors(Protocol):
    """`dtype` is the tag of safetensors; arrays of bf16 are uint16, of fp8 and e8m0 uint8."""

    def __contains__(self, name: str, /) -> bool: ...

    def __getitem__(self, name: str, /) -> Array: ...

    def dtype(self, name: str) -> str: ...


Tags: TypeAlias = Mapping[str, str]
"""Suffix → dtype tag, of the tensors that are there."""
Arrays: TypeAlias = Mapping[str, Array]
Maker: TypeAlias = Callable[[Arrays], Matrix]


def matrix_of(tensors: Tensors, name: str, where: Path) -> Matrix:
    """The matrix [out, in] in the tensors `name.weight` and the like; `where` they were read.

    Raises FormatError for a format that is not known or does not fit its scales.
    """
    tags = _tags(tensors, name)
    make = _maker(tags, where)
    if make is None:
        raise FormatError(f"the format of {name} is not known: it has {held(tensors, name)}")
    return make({suffix: tensors[f"{name}.{suffix}"] for suffix in tags})


def held(tensors: Tensors, name: str) -> str:
    """Which tensors stand under the name, for a message."""
    found = (f"{suffix} ({dtype})" for suffix, dtype in _tags(tensors, name).items())
    return ", ".join(found) or "no weights"


def _tags(tensors: Tensors, name: str) -> Tags:
    whole = {suffix: f"{name}.{suffix}" for suffix in SUFFIXES}
    return {s: tensors.dtype(full) for s, full in whole.items() if full in tensors}


def _maker(tags: Tags, where: Path) -> Maker | None:
    kinds, weight = frozenset(tags), tags.get("weight")
    if kinds == {"weight"}:
        return (lambda a: Plain(a["weight"])) if weight in FLOATS else None
    if weight == "F8_E4M3":
        return _fp8(tags)
    if weight in ("I8", "U8"):
        return _fp4(tags)
    if {"weight_packed", "weight_scale"} <= kinds and "weight_zero_point" not in kinds:
        return _packed(tags)
    return _gptq_or_awq(tags, where) if {"qweight", "scales"} <= kinds else None


def _fp8(tags: Tags) -> Maker | None:
    name = next((s for s in ("weight_scale_inv", "weight_scale", "scale") if s in tags), None)
    if name is None:
        return None

    def make(arrays: Arrays) -> Matrix:
        weight, scale = arrays["weight"], arrays[name]
        if tags[name] in POWERS and scale.shape[0] == len(weight):
            return MxFp8(weight, scale)
        values = _floats(arrays, tags, name)
        if values.size == 1:
            return Fp8Rows(weight, np.full(len(weight), values.reshape(-1)[0], np.float32))
        by_row = values.shape in ((len(weight),), (len(weight), 1))
        return Fp8Rows(weight, values) if by_row else Fp8Blocks(weight, values)

    return make


def _fp4(tags: Tags) -> Maker | None:
    """MXFP4, or NVFP4 as ModelOpt writes it."""
    if tags.keys() == {"weight", "scale"}:
        return lambda a: MxFp4(a["weight"].view(np.uint8), a["scale"])
    if tags.keys() == {"weight", "weight_scale", "weight_scale_2"}:
        return lambda a: NvFp4(
            a["weight"].view(np.uint8), a["weight_scale"], _whole(a, tags, "weight_scale_2")
        )
    return None


def _packed(tags: Tags) -> Maker:
    """compressed-tensors: int4 in groups, or fp4 (NVFP4's global scale divides)."""
    if "weight_global_scale" in tags:
        return lambda a: NvFp4(
            a["weight_packed"], a["weight_scale"], 1 / _whole(a, tags, "weight_global_scale")
        )
    if tags["weight_scale"] in POWERS:
        return lambda a: MxFp4(a["weight_packed"], a["weight_scale"])
    return lambda a: RawInt4(a["weight_packed"], _floats(a, tags, "weight_scale"))


def _gptq_or_awq(tags: Tags, where: Path) -> Maker:
    """AWQ packs along the outputs, GPTQ along the inputs; the scales are [groups, out] in both."""

    def make(arrays: Arrays) -> Matrix:
        words, scales = arrays["qweight"], _floats(arrays, tags, "scales")
        zeros = arrays.get("qzeros")
        if zeros is not None and scales.shape[1] == 8 * words.shape[1]:
            return Awq(words, zeros, scales)
        return Gptq(words, scales, zeros, arrays.get("g_idx"), _whole_zeros(where))

    return make


@cache
def _whole_zeros(where: Path) -> bool:
    """Whether the configuration beside the files names GPTQ v2, which stores zero points whole."""
    folder = where if where.is_dir() else where.parent
    for name in ("quantize_config.json", "config.json"):
        if (folder / name).is_file():
            settings = _settings(folder / name)
            if "checkpoint_format" in settings:
                return bool(settings["checkpoint_format"] == "gptq_v2")
    return False


def _settings(file: Path) -> Mapping[str, object]:
    try:
        whole = json_object(file.read_bytes())
    except ValueError as error:
        raise FormatError(f"cannot read {file}: {error}") from error
    own = whole.get("quantization_config")
    return own if isinstance(own, dict) else whole


def _whole(arrays: Arrays, tags: Tags, name: str) -> float:
    values = _floats(arrays, tags, name)
    if values.size != 1:
        raise FormatError(f"{name} has {values.size} values, not 1")
    return float(values.reshape(-1)[0])


def _floats(arrays: Arrays, tags: Tags, name: str) -> Floats:
    values, tag = arrays[name], tags[name]
    if tag in POWERS:
        return from_e8m0(values)
    if tag not in FLOATS:
        raise FormatError(f"{name} is {tag}, not {' or '.join(FLOATS)}")
    return from_bf16(values) if tag == "BF16" else values.astype(np.float32)
