"""GGUF block formats → float32 or codes.

Block layouts: https://github.com/ggml-org/ggml (`ggml-common.h`). A block of the K formats covers
256 weights; scales of 6 bits are spread over 12 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from kt_moe.formats.codes import Codes, finite
from kt_moe.formats.errors import FormatError, UnsupportedFormat
from kt_moe.formats.floats import E2M1, Array, Bytes, Floats, from_bf16, from_e8m0
from kt_moe.formats.gguf_types import BLOCKS, TYPE_NAMES
from kt_moe.formats.natively import half, symmetric, with_minima
from kt_moe.stored import Stored

__all__ = ["BLOCKS", "TYPE_NAMES", "GgufBlocks", "dequantize"]


@dataclass(frozen=True, slots=True)
class GgufBlocks:
    """A matrix [N, K] as it stands in a GGUF file: `raw` uint8, rows of whole blocks."""

    raw: Bytes
    kind: str
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        _decoder(self.kind)
        weights, size = BLOCKS[self.kind]
        n, k = self.shape
        if k % weights:
            raise FormatError(f"rows of {k} weights are no multiple of {self.kind}'s {weights}")
        if self.raw.size != n * k // weights * size:
            wanted = n * k // weights * size
            raise FormatError(
                f"{self.kind} weights have {self.raw.size} bytes, {(n, k)} takes {wanted}"
            )

    def decode(self) -> Floats:
        out = dequantize(self.raw, self.kind).reshape(self.shape)
        finite(out, "weight")
        return out

    def stored(self) -> Stored | None:
        """Codes and scales, which for K formats are products rounded to fp16; None for floats and
        Q8_K."""
        codes = self.codes()
        if codes is not None:
            return symmetric(codes)
        if self.kind not in _PARTS:
            return None
        n, k = self.shape
        parts = _PARTS[self.kind](self._blocks())
        values = np.ascontiguousarray(parts.codes).reshape(n, k)
        scales = parts.scales.reshape(n, -1)
        if self.kind == "MXFP4":
            if (scales == 255).any():
                return None  # NaN: decode says how many
            return Stored("mxfp4", 32, values, np.maximum(scales, 1) - np.uint8(1))
        if parts.minima is not None:
            return with_minima(values, scales, parts.minima.reshape(n, -1), parts.bits)
        bits = half(scales)
        return None if bits is None else Stored("iq4_nl", 32, values, bits)

    def codes(self) -> Codes | None:
        """Values and scales of the symmetric formats, None for the others."""
        if self.kind not in _SYMMETRIC:
            return None
        bits, split = _SYMMETRIC[self.kind]
        values, scales = split(self._blocks())
        return Codes(values.reshape(self.shape), scales.reshape(self.shape[0], -1), bits)

    def _blocks(self) -> Bytes:
        return self.raw.reshape(-1, BLOCKS[self.kind][1])


def dequantize(raw: Bytes, kind: str) -> Floats:
    """`raw` holds whole blocks; returns the flat weights. Raises UnsupportedFormat by name."""
    decode = _decoder(kind)
    return decode(raw.reshape(-1, BLOCKS[kind][1])).reshape(-1)


def _decoder(kind: str) -> Callable[[Bytes], Floats]:
    if kind not in _DECODERS:
        raise UnsupportedFormat(f"GGUF type {kind} is not supported; {', '.join(_DECODERS)} are")
    return _DECODERS[kind]


def _half(blocks: Bytes, at: int) -> Floats:
    """The fp16 at byte `at` of every block, as a column."""
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def _nibbles(blocks: Bytes) -> Bytes:
    """Low nibbles of a block's bytes, then the high ones."""
    return np.concatenate([blocks & 15, blocks >> 4], axis=1)


def _bits(blocks: Bytes) -> Bytes:
    """32 bits of 4 bytes, shifted to the place of a fifth bit."""
    return np.unpackbits(blocks, axis=1, bitorder="little") << 4


def _planes(b: Bytes, width: int, bits: int) -> Bytes:
    """[n, halves·width] bytes → [n, halves·planes, width]: plane j holds bits j·bits upwards."""
    shifts: Bytes = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    halves = b.reshape(len(b), -1, 1, width)
    return ((halves >> shifts) & ((1 << bits) - 1)).reshape(len(b), -1, width)


def _scale_min(b: Bytes) -> tuple[Bytes, Bytes]:
    """Eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K, from 12 bytes."""
    first, second, rest = b[:, :4], b[:, 4:8], b[:, 8:12]
    scale = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1)
    low = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    return scale, low


IQ4: Floats = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
"""Values of the codes of IQ4_NL and IQ4_XS (`kvalues_iq4nl` in ggml)."""


class _Parts(NamedTuple):
    """Unsigned codes of `bits`, and for each group of a block a scale and perhaps a minimum."""

    codes: Bytes
    scales: Array
    minima: Floats | None = None
    bits: int = 4


def _q4_1(b: Bytes) -> _Parts:
    return _Parts(_nibbles(b[:, 4:]), _half(b, 0), _half(b, 2))


def _q5_1(b: Bytes) -> _Parts:
    return _Parts(_nibbles(b[:, 8:]) | _bits(b[:, 4:8]), _half(b, 0), _half(b, 2), 6)


def _q2_k(b: Bytes) -> _Parts:
    scales = b[:, :16]
    scale, low = _half(b, 80) * (scales & 15), -_half(b, 82) * (scales >> 4)
    return _Parts(_planes(b[:, 16:80], 32, 2), scale, low)


def _q4_k(b: Bytes) -> _Parts:
    scale, low = _scale_min(b[:, 4:16])
    return _Parts(_planes(b[:, 16:], 32, 4), _half(b, 0) * scale, -_half(b, 2) * low)


def _q5_k(b: Bytes) -> _Parts:
    codes = _planes(b[:, 48:], 32, 4) | _planes(b[:, 16:48], 32, 1) << 4
    scale, low = _scale_min(b[:, 4:16])
    return _Parts(codes, _half(b, 0) * scale, -_half(b, 2) * low, 6)


def _iq4_xs(b: Bytes) -> _Parts:
    high = _planes(b[:, 2:4], 1, 2).reshape(-1, 8)
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    scale = (low | high << 4).astype(np.float32) - 32
    return _Parts(_planes(b[:, 8:], 16, 4), _half(b, 0) * scale)


_PARTS: dict[str, Callable[[Bytes], _Parts]] = {
    "Q4_1": _q4_1,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "IQ4_NL": lambda b: _Parts(_nibbles(b[:, 2:]), _half(b, 0)),
    "IQ4_XS": _iq4_xs,
    "MXFP4": lambda b: _Parts(_nibbles(b[:, 1:]), b[:, :1]),
}

_Signed: TypeAlias = tuple[Array, Floats]
"""int8 values, and a scale for each group of a block."""


def _q4_0(b: Bytes) -> _Signed:
    return _nibbles(b[:, 2:]).view(np.int8) - np.int8(8), _half(b, 0)


def _q5_0(b: Bytes) -> _Signed:
    return (_nibbles(b[:, 6:]) | _bits(b[:, 2:6])).view(np.int8) - np.int8(16), _half(b, 0)


def _q3_k(b: Bytes) -> _Signed:
    high = _planes(b[:, :32], 32, 1).astype(np.int8)
    q = _planes(b[:, 32:96], 32, 2).astype(np.int8) + 4 * high - 4
    low4 = _nibbles(b[:, 96:104])
    high2 = _planes(b[:, 104:108], 4, 2).reshape(-1, 16)
    scale = (low4 | high2 << 4).astype(np.float32) - 32
    return q, _half(b, 108) * scale


def _q6_k(b: Bytes) -> _Signed:
    # Each half takes 64 bytes of nibbles: planes (low 0-31, low 32-63, high 0-31, high 32-63).
    low = _planes(b[:, :128], 64, 4).reshape(-1, 8, 32)
    high = _planes(b[:, 128:192], 32, 2)
    q = (low | high << 4).view(np.int8) - np.int8(32)
    return q, b[:, 192:208].view(np.int8) * _half(b, 208)


_SYMMETRIC: dict[str, tuple[int, Callable[[Bytes], _Signed]]] = {
    "Q4_0": (4, _q4_0),
    "Q5_0": (6, _q5_0),
    "Q8_0": (8, lambda b: (b[:, 2:].view(np.int8), _half(b, 0))),
    "Q3_K": (4, _q3_k),
    "Q6_K": (6, _q6_k),
}
"""Bits that the values fit, and how a block holds them."""


def _q8_k(b: Bytes) -> Floats:
    scale: Floats = b[:, :4].copy().view(np.float32)
    return b[:, 4:260].view(np.int8).astype(np.float32) * scale


def _integers(kind: str) -> Callable[[Bytes], Floats]:
    def decode(b: Bytes) -> Floats:
        if kind in _SYMMETRIC:
            return _scaled(*_SYMMETRIC[kind][1](b))
        parts = _PARTS[kind](b)
        if parts.minima is None:
            return _scaled(IQ4[parts.codes], parts.scales)
        return _scaled(parts.codes, parts.scales, parts.minima)

    return decode


def _scaled(values: Array, scales: Floats, minima: Floats | None = None) -> Floats:
    out = values.reshape(*scales.shape, -1).astype(np.float32)
    out *= scales[:, :, None]
    if minima is not None:
        out += minima[:, :, None]
    return out


def _mxfp4(b: Bytes) -> Floats:
    return E2M1[_nibbles(b[:, 1:])] * from_e8m0(b[:, :1])


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": lambda b: b.copy().view(np.float32),
    "F16": lambda b: b.copy().view(np.float16).astype(np.float32),
    "BF16": lambda b: from_bf16(b.copy().view(np.uint16)),
    **{kind: _integers(kind) for kind in (*_SYMMETRIC, *_PARTS)},
    "MXFP4": _mxfp4,
    "Q8_K": _q8_k,
}
