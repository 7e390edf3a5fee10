"""Small float formats as integer arrays: bf16 in uint16; fp8, fp4 and e8m0 in uint8.

bf16 is the upper half of a float32. fp8 e4m3 and e5m2: OCP 8-bit floating point specification
(OFP8) 1.0. fp4 e2m1 and the scale format e8m0: OCP Microscaling formats (MX) 1.0.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Bits: TypeAlias = npt.NDArray[np.uint16]

E2M1: Floats = np.array(
    [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32
)
"""fp4 by code: sign, two exponent bits, one mantissa bit."""

E4M3_MAX = 448.0
E2M1_MAX = 6.0


def dims(matrix: Array) -> tuple[int, int]:
    rows, columns = matrix.shape
    return int(rows), int(columns)


def from_bf16(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(values: Array) -> Bits:
    """Rounds to nearest even; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> 16  # in place from here on: whole checkpoints pass through
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    out = rounded.astype(np.uint16)
    nan = np.isnan(bits.view(np.float32))
    if nan.any():
        out[nan] = 0x7FC0
    return out


def from_e8m0(exponents: Bytes) -> Floats:
    """Powers of two, 2^(e-127); 255 is NaN."""
    return _e8m0_table()[exponents]


def from_e4m3(bits: Bytes) -> Floats:
    """fp8 e4m3fn: no infinities, 0x7F and 0xFF are NaN."""
    return _e4m3_table()[bits]


def from_e5m2(bits: Bytes) -> Floats:
    return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def to_e4m3(values: Array) -> Bytes:
    """Rounds to nearest even; what is larger than 448 becomes 448, a NaN stays a NaN."""
    codes = _nearest(np.abs(values), _e4m3_table()[:127])
    codes[np.isnan(values)] = 127
    return codes | (np.signbit(values).astype(np.uint8) << 7)


def to_e2m1(values: Array) -> Bytes:
    """Rounds to nearest even; what is larger than 6 becomes 6. One code of 4 bits per byte."""
    return _nearest(np.abs(values), E2M1[:8]) | (np.signbit(values).astype(np.uint8) << 3)


def _nearest(magnitudes: Array, table: Floats) -> Bytes:
    """Index of the nearest entry of an ascending table; a tie goes to the even index."""
    middles = (table[1:] + table[:-1]) / 2
    low = np.searchsorted(middles, magnitudes, side="left")
    high = np.searchsorted(middles, magnitudes, side="right")
    return np.where(low % 2 == 0, low, high).astype(np.uint8)


@cache
def _e4m3_table() -> Floats:
    code: Array = np.arange(256, dtype=np.int32)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    magnitude = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    magnitude[code & 127 == 127] = np.nan
    return _frozen(np.where(code & 128, -magnitude, magnitude))


@cache
def _e8m0_table() -> Floats:
    table = np.ldexp(1.0, np.arange(256) - 127)
    table[255] = np.nan
    return _frozen(table)


def _frozen(table: Array) -> Floats:
    out = table.astype(np.float32)
    out.setflags(write=False)
    return out
