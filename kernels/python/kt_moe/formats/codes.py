"""Integers with a scale per row or per group of a row: INT8 and INT4, symmetric.

    weight[n, k] = values[n, k] · scales[n, k // group]

The scale of a group is max|w| / 127 for INT8. For INT4 the candidates max|w| / q are tried over a
range of q and the one with the least squared error wins; the grid -8…7 is used to its full width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import Array, Floats, dims

INT4_GROUPS = (32, 64, 128)
_CANDIDATES = (7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)
"""Where the largest weight of a group may land. The small integers find the scale again of weights
that were on a grid of this kind before."""


@dataclass(frozen=True, slots=True)
class Codes:
    """`values` int8 [N, K]; `scales` float32 [N, K / group]."""

    values: npt.NDArray[np.int8]
    scales: Floats
    bits: int

    def __post_init__(self) -> None:
        n, k = self.values.shape
        if self.scales.ndim != 2 or len(self.scales) != n or k % max(self.scales.shape[1], 1):
            raise FormatError(f"scales {self.scales.shape} do not divide weights {(n, k)}")
        finite(self.scales, "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return dims(self.values)

    @property
    def group(self) -> int:
        return self.shape[1] // dims(self.scales)[1]

    def decode(self) -> Floats:
        return _flat(_grouped(self.values, self.group) * self.scales[:, :, None])

    def codes(self) -> Codes:
        return self


def int8(weights: Array, group: int | None = None) -> Codes:
    """`group` None: one scale per row."""
    rows = _grouped(_checked(weights), group or weights.shape[1])
    scales = np.abs(rows).max(axis=2) / np.float32(127)
    values = np.rint(rows * _inverse(scales)[:, :, None])
    return Codes(_flat(values.astype(np.int8)), scales, 8)


def int4(weights: Array, group: int = 32, *, search: bool = True) -> Codes:
    """Scales are fp16 values. Without `search` every group takes max|w| / 7."""
    rows = _grouped(_checked(weights), group)
    peaks = _signed_peak(rows)
    best = _quantize4(rows, _half(np.abs(peaks) / 7))
    for q in _CANDIDATES if search else ():
        # The side of the peak gets the wider half of the grid: a negative scale flips it.
        for sign in (-1, 1):
            best = _better(best, _quantize4(rows, _half(sign * peaks / q)))
    values, scales, _ = best
    return Codes(_flat(values), scales, 4)


def finite(values: Array, what: str) -> None:
    """Raises FormatError that counts the values which are not numbers."""
    bad = int(np.size(values) - np.isfinite(values).sum())
    if bad:
        raise FormatError(f"{bad} of {np.size(values)} {what}s are NaN or infinite")


_Quantized: TypeAlias = tuple[npt.NDArray[np.int8], Floats, Floats]


def _quantize4(rows: Floats, scales: Floats) -> _Quantized:
    """Values, scales and squared error per group."""
    values = np.rint(rows * _inverse(scales)[:, :, None])
    np.clip(values, -8, 7, out=values)
    off = values * scales[:, :, None] - rows
    return values.astype(np.int8), scales, np.einsum("ngk,ngk->ng", off, off)


def _better(old: _Quantized, new: _Quantized) -> _Quantized:
    take = new[2] < old[2]
    return (
        np.where(take[:, :, None], new[0], old[0]),
        np.where(take, new[1], old[1]),
        np.where(take, new[2], old[2]),
    )


def _checked(weights: Array) -> Floats:
    if weights.ndim != 2:
        raise FormatError(f"weights have shape {weights.shape}, not [rows, columns]")
    finite(weights, "weight")
    return weights.astype(np.float32)


def _grouped(rows: Any, group: int) -> Any:
    n, k = rows.shape
    if group < 1 or k % group:
        raise FormatError(f"rows of {k} weights are no multiple of the group {group}")
    return rows.reshape(n, k // group, group)


def _flat(grouped: Any) -> Any:
    return grouped.reshape(len(grouped), -1)


def _signed_peak(rows: Floats) -> Floats:
    at = np.abs(rows).argmax(axis=2)
    return np.take_along_axis(rows, at[:, :, None], axis=2)[:, :, 0]


def _half(scales: Array) -> Floats:
    """Rounded to fp16, the largest finite one at most."""
    return np.clip(scales, -65504, 65504).astype(np.float16).astype(np.float32)


def _inverse(scales: Floats) -> Floats:
    return np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
