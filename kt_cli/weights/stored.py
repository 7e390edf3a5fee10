"""One quantised or plain matrix of a checkpoint, by the tensors that stand under its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from kt_moe.formats import (
    Awq,
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

from kt_cli.errors import KtError, NotFoundError
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.floats import Array, Floats, bf16_to_float32

SUFFIXES = (
    "weight", "weight_scale_inv", "weight_scale", "weight_scale_2", "scale", "weight_packed",
    "weight_global_scale", "weight_zero_point", "qweight", "scales", "qzeros", "g_idx",
)  # fmt: skip


Held = Mapping[str, str]
"""Suffix → dtype tag, of the tensors that are there."""


def matrix_of(checkpoint: Checkpoint, name: str) -> Matrix:
    """The matrix [out, in] whose tensors are `name` + `.weight` and the like.

    Raises NotFoundError, or KtError for a format that is not known or does not fit its scales.
    """
    held = {
        s: checkpoint.info(f"{name}.{s}").dtype for s in SUFFIXES if f"{name}.{s}" in checkpoint
    }
    if not held:
        raise NotFoundError(f"{checkpoint.path} has no weights of {name}")
    make = _maker(held)
    if make is None:
        found = ", ".join(f"{suffix} ({dtype})" for suffix, dtype in held.items())
        raise KtError(f"the format of {name} is not known", f"it has {found}")
    try:
        return make({suffix: checkpoint.numpy(f"{name}.{suffix}") for suffix in held}, held)
    except FormatError as error:
        raise KtError(f"cannot read {name}", str(error)) from error


Arrays = Mapping[str, Array]
Maker = Callable[[Arrays, Held], Matrix]


def _maker(held: Held) -> Maker | None:
    kinds = frozenset(held)
    weight = held.get("weight", "")
    if kinds == {"weight"}:
        return _plain if weight in ("BF16", "F16", "F32") else None
    if weight == "F8_E4M3":
        return _fp8(held)
    if weight in ("I8", "U8") and kinds == {"weight", "scale"}:
        return lambda a, held: MxFp4(a["weight"].view(np.uint8), a["scale"])
    if weight == "U8" and kinds == {"weight", "weight_scale", "weight_scale_2"}:
        return _nvfp4
    if "weight_packed" in kinds and "weight_zero_point" not in kinds:
        return _packed(held)
    return _gptq_or_awq if {"qweight", "scales"} <= kinds else None


def _plain(arrays: Arrays, held: Held) -> Matrix:
    return Plain(arrays["weight"])


def _fp8(held: Held) -> Maker | None:
    scale = next((s for s in ("weight_scale_inv", "weight_scale", "scale") if s in held), None)
    if scale is None:
        return None

    def make(arrays: Arrays, held: Held) -> Matrix:
        weight, factors = arrays["weight"], arrays[scale]
        if held[scale] in ("U8", "F8_E8M0") and factors.shape[0] == len(weight):
            return MxFp8(weight, factors)
        values = _floats(factors, held[scale])
        if values.shape in ((len(weight),), (len(weight), 1)):
            return Fp8Rows(weight, values)
        if values.size == 1:
            return Fp8Rows(weight, np.full(len(weight), values.reshape(-1)[0], np.float32))
        return Fp8Blocks(weight, values)

    return make


def _packed(held: Held) -> Maker | None:
    """compressed-tensors: int4 in groups, or nvfp4 with a global scale that divides."""
    if "weight_global_scale" in held:

        def nvfp4(arrays: Arrays, held: Held) -> Matrix:
            whole = 1 / float(arrays["weight_global_scale"].reshape(-1)[0])
            return NvFp4(arrays["weight_packed"], arrays["weight_scale"], whole)

        return nvfp4
    if held.get("weight_scale") in ("U8", "F8_E8M0"):
        return lambda a, held: MxFp4(a["weight_packed"], a["weight_scale"])
    return lambda a, held: RawInt4(
        a["weight_packed"], _floats(a["weight_scale"], held["weight_scale"])
    )


def _nvfp4(arrays: Arrays, held: Held) -> Matrix:
    whole = float(arrays["weight_scale_2"].reshape(-1)[0])
    return NvFp4(arrays["weight"], arrays["weight_scale"], whole)


def _gptq_or_awq(arrays: Arrays, held: Held) -> Matrix:
    """AWQ packs along the outputs, GPTQ along the inputs; the scales are [groups, out] in both."""
    scales, words = _floats(arrays["scales"], held["scales"]), arrays["qweight"]
    if scales.shape[1] == 8 * words.shape[1]:
        return Awq(words, arrays["qzeros"], scales)
    return Gptq(words, scales, arrays.get("qzeros"), arrays.get("g_idx"))


def _floats(values: Array, dtype: str) -> Floats:
    if dtype == "BF16":
        return bf16_to_float32(values)
    if dtype in ("U8", "F8_E8M0"):
        bits = values.astype(np.uint32) << 23
        return bits.view(np.float32)
    return values.astype(np.float32)
