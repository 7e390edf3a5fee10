"""Microscaling formats: groups along a row that share a scale, elements fp4 or fp8.

MXFP4 and MXFP8: OCP Microscaling formats (MX) 1.0, groups of 32, scales e8m0. NVFP4: groups of 16,
scales fp8 e4m3, and one float32 for the whole matrix on top (NVIDIA ModelOpt's `weight`,
`weight_scale`, `weight_scale_2`). Two fp4 codes share a byte, the even column in the low half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kt_moe.formats.codes import finite
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import (
    E2M1,
    E2M1_MAX,
    E4M3_MAX,
    Array,
    Bytes,
    Floats,
    dims,
    from_e4m3,
    from_e8m0,
    to_e2m1,
    to_e4m3,
)
from kt_moe.stored import Stored

MX_GROUP = 32
NV_GROUP = 16


@dataclass(frozen=True, slots=True)
class MxFp4:
    """`weight` uint8 [N, K/2]; `scale` uint8 (e8m0) [N, K/32]."""

    weight: Bytes
    scale: Bytes

    def __post_init__(self) -> None:
        _check("MXFP4", self.shape, self.scale, MX_GROUP)
        finite(from_e8m0(self.scale), "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return _unpacked(self.weight)

    def decode(self) -> Floats:
        return _scaled(E2M1[nibbles(self.weight)], from_e8m0(self.scale))

    def stored(self) -> Stored:
        """The kernels' values are twice those of e2m1, so a scale is half as large. Weights with
        one of the two smallest scales, below 2^-123, become 0."""
        codes = nibbles(self.weight)
        return Stored("mxfp4", MX_GROUP, codes, np.maximum(self.scale, 1) - np.uint8(1))


@dataclass(frozen=True, slots=True)
class MxFp8:
    """`weight` uint8 (e4m3) [N, K]; `scale` uint8 (e8m0) [N, K/32]."""

    weight: Bytes
    scale: Bytes

    def __post_init__(self) -> None:
        _check("MXFP8", self.shape, self.scale, MX_GROUP)
        finite(from_e8m0(self.scale), "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return dims(self.weight)

    def decode(self) -> Floats:
        return _scaled(from_e4m3(self.weight), from_e8m0(self.scale))


@dataclass(frozen=True, slots=True)
class NvFp4:
    """`weight` uint8 [N, K/2]; `scale` uint8 (e4m3) [N, K/16]; `whole` a float."""

    weight: Bytes
    scale: Bytes
    whole: float

    def __post_init__(self) -> None:
        _check("NVFP4", self.shape, self.scale, NV_GROUP)
        finite(from_e4m3(self.scale) * np.float32(self.whole), "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return _unpacked(self.weight)

    def decode(self) -> Floats:
        return _scaled(E2M1[nibbles(self.weight)], from_e4m3(self.scale) * np.float32(self.whole))

    def stored(self) -> Stored | None:
        """The kernels read e4m3 as 2^-8 of its value and e2m1 as twice its value."""
        rows: Floats = np.full(len(self.weight), self.whole * 128, np.float32)
        if (self.scale > 127).any() or not np.isfinite(rows).all():
            return None
        return Stored("nvfp4", NV_GROUP, nibbles(self.weight), self.scale, None, rows)


def mxfp4(weights: Array) -> MxFp4:
    scale = _shared_exponent(weights, 2)
    return MxFp4(_packed(to_e2m1(_unscaled(weights, from_e8m0(scale)))), scale)


def mxfp8(weights: Array) -> MxFp8:
    scale = _shared_exponent(weights, 8)
    return MxFp8(to_e4m3(_unscaled(weights, from_e8m0(scale))), scale)


def nvfp4(weights: Array) -> NvFp4:
    finite(weights, "weight")
    peak = _groups(weights, NV_GROUP).max(axis=2)
    whole = np.float32(peak.max() / (E4M3_MAX * E2M1_MAX) or 1)
    scale = to_e4m3(peak / E2M1_MAX / whole)
    return NvFp4(
        _packed(to_e2m1(_unscaled(weights, from_e4m3(scale) * whole))), scale, float(whole)
    )


def nibbles(packed: Bytes) -> Bytes:
    """[N, K/2] → [N, K], low half first."""
    out = np.empty((len(packed), packed.shape[1] * 2), np.uint8)
    out[:, 0::2] = packed & 15
    out[:, 1::2] = packed >> 4
    return out


def _packed(codes: Bytes) -> Bytes:
    return codes[:, 0::2] | codes[:, 1::2] << 4


def _unpacked(weight: Bytes) -> tuple[int, int]:
    return len(weight), weight.shape[1] * 2


def _check(name: str, shape: tuple[int, int], scale: Bytes, group: int) -> None:
    n, k = shape
    if k % group:
        raise FormatError(f"{name} rows of {k} weights are no multiple of {group}")
    if scale.shape != (n, k // group):
        raise FormatError(f"{name} scales have shape {scale.shape}, not {(n, k // group)}")


def _groups(weights: Array, group: int) -> Floats:
    """Magnitudes [N, K/group, group]."""
    n, k = weights.shape
    if k % group:
        raise FormatError(f"rows of {k} weights are no multiple of {group}")
    return np.abs(weights.astype(np.float32)).reshape(n, k // group, group)


def _shared_exponent(weights: Array, largest: int) -> Bytes:
    """MX 1.0, section 6.3: floor(log2(max)) less the largest exponent of the element format."""
    finite(weights, "weight")
    _, exponent = np.frexp(_groups(weights, MX_GROUP).max(axis=2))
    return np.clip(exponent - 1 - largest + 127, 0, 254).astype(np.uint8)


def _scaled(elements: Floats, scales: Floats) -> Floats:
    n, groups = scales.shape
    return (elements.reshape(n, groups, -1) * scales[:, :, None]).reshape(elements.shape)


def _unscaled(weights: Array, scales: Floats) -> Floats:
    n, groups = scales.shape
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return (weights.reshape(n, groups, -1) * inverse[:, :, None]).reshape(weights.shape)
