"""Matrices whose codes the kernels use unchanged: every code is kept, scales become fp16.

`stored` returns None if a format has no such form, or if its scales do not fit fp16: such weights
are decoded and packed again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kt_moe.formats.codes import Codes
from kt_moe.formats.floats import Array, Bytes, Floats
from kt_moe.formats.matrix import Matrix, codes_of
from kt_moe.stored import Bits, Stored

GROUPS = {4: (16, 32, 64, 128), 6: (16, 32, 64, 128), 8: (32, 64, 128)}
"""k of a group that the kernels have, by bits of a code."""
_ROW_GROUP = 128
_LOSS = 2.0**-10
"""What rounding to fp16 may change of a scale, or of an eighth of the largest one."""


def stored(matrix: Matrix) -> Stored | None:
    make = getattr(matrix, "stored", None)
    if make is not None:
        native: Stored | None = make()
        return native
    codes = codes_of(matrix)
    return None if codes is None else symmetric(codes)


def symmetric(codes: Codes) -> Stored | None:
    """int8 for 8 bits and a scale per row, q8_0 for 8 bits in groups; q6_0, int4."""
    if codes.bits == 8 and (codes.values == -128).any():
        return None  # the kernels have no room for it
    by_row = codes.scales.shape[1] == 1
    if codes.bits == 8 and by_row:
        return Stored("int8", 32, _bytes(codes.values), _no_scales(codes), None, codes.scales[:, 0])
    if by_row:
        k = codes.shape[1]
        return _halved(codes, _ROW_GROUP, codes.scales.repeat(-(-k // _ROW_GROUP), axis=1))
    groups = [g for g in GROUPS[codes.bits] if codes.group % g == 0]
    if not groups:
        return None
    group = max(groups)
    return _halved(codes, group, codes.scales.repeat(codes.group // group, axis=1))


def with_minima(codes: Bytes, scales: Floats, minima: Floats, bits: int = 4) -> Stored | None:
    """q4_1, q6_1: unsigned codes [N, K], weight = scale · code + minimum, for each group of K."""
    group = codes.shape[1] // scales.shape[1]
    groups = [g for g in GROUPS[bits] if group % g == 0]
    units, lows = half(scales), half(minima, scales)
    if not groups or units is None or lows is None:
        return None
    times = group // max(groups)
    units, lows = units.repeat(times, axis=1), lows.repeat(times, axis=1)
    return Stored(f"q{bits}_1", max(groups), codes, units, lows)


def half(values: Floats, unit: Floats | None = None) -> Bits | None:
    """Bits of fp16; None where a value does not fit. `unit`: the scales that go with minima."""
    rounded = np.clip(values, -65504, 65504).astype(np.float16)
    largest = np.abs(values if unit is None else unit).max(initial=0)
    allowed = _LOSS * np.maximum(np.abs(values), largest / 8)
    fits = bool((np.abs(rounded.astype(np.float32) - values) <= allowed).all())
    return rounded.view(np.uint16) if fits else None


def _halved(codes: Codes, group: int, scales: Floats) -> Stored | None:
    bits = half(scales)
    if bits is None:
        return None
    if codes.bits == 8:
        return Stored("q8_0", group, _bytes(codes.values), bits)
    format_, middle = {4: ("int4", 8), 6: ("q6_0", 32)}[codes.bits]
    return Stored(format_, group, _bytes(codes.values + np.int8(middle)), bits)


def _bytes(values: Array) -> Bytes:
    return np.ascontiguousarray(values).view(np.uint8)


def _no_scales(codes: Codes) -> Any:
    return np.empty((codes.shape[0], 0), np.uint8)
