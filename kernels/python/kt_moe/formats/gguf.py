"""GGUF block formats → float32 or codes.

Block layouts: https://github.com/ggml-org/ggml (`ggml-common.h`). A block of the K formats covers
256 weights; scales of 6 bits are spread over 12 bytes. `BLOCKS` also knows the sizes of formats
that cannot be decoded here, so that their bytes can be counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kt_moe.formats.codes import Codes, finite
from kt_moe.formats.errors import FormatError, UnsupportedFormat
from kt_moe.formats.floats import E2M1, Bytes, Floats, from_bf16, from_e8m0

# code: (name, weights per block, bytes per block)
_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
TYPE_NAMES = {code: name for code, (name, _, _) in _TYPES.items()}
BLOCKS = {name: (weights, size) for name, weights, size in _TYPES.values()}
"""Name → (weights per block, bytes per block)."""


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

    def codes(self) -> Codes | None:
        """Values and scales of the symmetric formats Q8_0 and Q4_0, None for the others."""
        if self.kind not in ("Q8_0", "Q4_0"):
            return None
        blocks = self.raw.reshape(-1, BLOCKS[self.kind][1])
        values = blocks[:, 2:].view(np.int8)
        if self.kind == "Q4_0":
            values = _nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)
        scales = _half(blocks, 0).reshape(self.shape[0], -1)
        return Codes(values.reshape(self.shape), scales, 8 if self.kind == "Q8_0" else 4)


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


def _affine(q: Bytes, scale: Floats, low: Floats) -> Floats:
    out = q.astype(np.float32)
    out *= scale
    out += low
    return out


def _q4_0(b: Bytes) -> Floats:
    d = _half(b, 0)
    return _affine(_nibbles(b[:, 2:]), d, -8 * d)


def _q4_1(b: Bytes) -> Floats:
    return _affine(_nibbles(b[:, 4:]), _half(b, 0), _half(b, 2))


def _q5_0(b: Bytes) -> Floats:
    d = _half(b, 0)
    return _affine(_nibbles(b[:, 6:]) | _bits(b[:, 2:6]), d, -16 * d)


def _q5_1(b: Bytes) -> Floats:
    return _affine(_nibbles(b[:, 8:]) | _bits(b[:, 4:8]), _half(b, 0), _half(b, 2))


def _q8_0(b: Bytes) -> Floats:
    return b[:, 2:].view(np.int8).astype(np.float32) * _half(b, 0)


def _planes(b: Bytes, width: int, bits: int) -> Bytes:
    """[n, halves·width] bytes → [n, halves·planes, width]: plane j holds bits j·bits upwards."""
    shifts: Bytes = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    halves = b.reshape(len(b), -1, 1, width)
    return ((halves >> shifts) & ((1 << bits) - 1)).reshape(len(b), -1, width)


def _q2_k(b: Bytes) -> Floats:
    scales = b[:, :16]
    scale = (_half(b, 80) * (scales & 15))[:, :, None]
    low = (-_half(b, 82) * (scales >> 4))[:, :, None]
    return _affine(_planes(b[:, 16:80], 32, 2).reshape(-1, 16, 16), scale, low)


def _q3_k(b: Bytes) -> Floats:
    high = _planes(b[:, :32], 32, 1).astype(np.int8)
    q = _planes(b[:, 32:96], 32, 2).astype(np.int8) + 4 * high - 4
    low4 = _nibbles(b[:, 96:104])
    high2 = _planes(b[:, 104:108], 4, 2).reshape(-1, 16)
    scale = (low4 | high2 << 4).astype(np.float32) - 32
    return q.reshape(-1, 16, 16) * (_half(b, 108) * scale)[:, :, None]


def _scale_min(b: Bytes) -> tuple[Bytes, Bytes]:
    """Eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K, from 12 bytes."""
    first, second, rest = b[:, :4], b[:, 4:8], b[:, 8:12]
    scale = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1)
    low = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    return scale, low


def _q45_k(b: Bytes, q: Bytes) -> Floats:
    scale, low = _scale_min(b[:, 4:16])
    d, dmin = _half(b, 0), _half(b, 2)
    return _affine(q, (d * scale)[:, :, None], (-dmin * low)[:, :, None])


def _q4_k(b: Bytes) -> Floats:
    return _q45_k(b, _planes(b[:, 16:], 32, 4))


def _q5_k(b: Bytes) -> Floats:
    return _q45_k(b, _planes(b[:, 48:], 32, 4) | _planes(b[:, 16:48], 32, 1) << 4)


def _q6_k(b: Bytes) -> Floats:
    # Each half takes 64 bytes of nibbles: planes (low 0-31, low 32-63, high 0-31, high 32-63).
    low = _planes(b[:, :128], 64, 4).reshape(-1, 8, 32)
    high = _planes(b[:, 128:192], 32, 2)
    q = (low | high << 4).astype(np.int8) - 32
    scale = b[:, 192:208].view(np.int8) * _half(b, 208)
    return q.reshape(-1, 16, 16) * scale[:, :, None]


def _q8_k(b: Bytes) -> Floats:
    scale: Floats = b[:, :4].copy().view(np.float32)
    return b[:, 4:260].view(np.int8).astype(np.float32) * scale


def _mxfp4(b: Bytes) -> Floats:
    return E2M1[_nibbles(b[:, 1:])] * from_e8m0(b[:, :1])


_DECODERS: dict[str, Callable[[Bytes], Floats]] = {
    "F32": lambda b: b.copy().view(np.float32),
    "F16": lambda b: b.copy().view(np.float16).astype(np.float32),
    "BF16": lambda b: from_bf16(b.copy().view(np.uint16)),
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "Q8_K": _q8_k,
    "MXFP4": _mxfp4,
}
