"""Float formats that numpy lacks, as integer arrays: bf16 in uint16; fp8, fp4 and e8m0 in uint8.

OCP 8-bit and microscaling formats: https://www.opencompute.org (OFP8, MX v1.0).
"""

from __future__ import annotations

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
"""fp4: sign, two exponent bits, one mantissa bit."""


def bf16_to_float32(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bf16(values: Floats) -> Bits:
    """Rounds to nearest even; a NaN stays a NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    out = rounded.astype(np.uint16)
    nan = np.isnan(values)
    if nan.any():
        out[nan] = 0x7FC0
    return out


def e8m0_to_float32(exponents: Bytes) -> Floats:
    """Powers of two, 2^(e-127); 255 is NaN."""
    bits = exponents.astype(np.uint32) << 23
    bits[exponents == 0] = 1 << 22  # subnormal
    bits[exponents == 255] |= 1 << 22
    return bits.view(np.float32)


def e4m3_to_float32(bits: Bytes) -> Floats:
    """fp8 e4m3fn: no infinities, 0x7F and 0xFF are NaN."""
    return _e4m3_table()[bits]


def e5m2_to_float32(bits: Bytes) -> Floats:
    return (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def _e4m3_table() -> Floats:
    code: npt.NDArray[np.int32] = np.arange(256, dtype=np.int32)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    magnitude = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    magnitude[code & 127 == 127] = np.nan
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)
