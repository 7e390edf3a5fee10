"""Published INT4 checkpoints: eight codes of four bits in an int32.

RAWINT4: compressed-tensors' `pack-quantized` (`weight_packed` [N, K/8] along the row, low half
first, code + 8; `weight_scale` [N, K/group]). GPTQ: `qweight` [K/8, N], `scales` [K/group, N],
`qzeros`, `g_idx` (AutoGPTQ; zero points are stored less one, GPTQ v2 stores them whole). AWQ:
`qweight` [K, N/8] with columns in the order 0 2 4 6 1 3 5 7, `qzeros`, `scales` (AutoAWQ, GEMM).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kt_moe.formats.codes import Codes, finite
from kt_moe.formats.errors import FormatError, UnsupportedFormat
from kt_moe.formats.floats import Array, Bytes, Floats
from kt_moe.formats.natively import symmetric, with_minima
from kt_moe.stored import Stored

AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_SHIFTS: Array = np.arange(0, 32, 4, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class RawInt4:
    """`weight` int32 [N, K/8] or the same bytes as uint8 [N, K/2]; `scale` float32 [N, K/group]."""

    weight: Array
    scale: Floats

    def __post_init__(self) -> None:
        if self.weight.dtype not in (np.dtype(np.int32), np.dtype(np.uint8)):
            raise FormatError(f"weight_packed is {self.weight.dtype}, not int32 or uint8")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.weight), self.weight.shape[1] * self.weight.itemsize * 2

    def codes(self) -> Codes:
        words = np.ascontiguousarray(self.weight).view(np.uint8)
        values = np.stack([words & 15, words >> 4], axis=2).reshape(self.shape)
        return Codes(_centred(values), self.scale, 4)

    def decode(self) -> Floats:
        return self.codes().decode()


@dataclass(frozen=True, slots=True)
class Gptq:
    """Without act-order, which raises UnsupportedFormat. No `qzeros`: 8 everywhere, as in GPTQ's
    symmetric form. `whole_zeros`: zero points as they are, GPTQ v2, otherwise less one."""

    qweight: npt.NDArray[np.int32]
    scales: Floats
    qzeros: npt.NDArray[np.int32] | None = None
    g_idx: Array | None = None
    whole_zeros: bool = False

    def __post_init__(self) -> None:
        k, n = self.qweight.shape[0] * 8, self.qweight.shape[1]
        groups = len(self.scales)
        if self.qweight.dtype != np.int32:
            raise FormatError(f"GPTQ qweight is {self.qweight.dtype}, not int32")
        bits = self._width()
        if bits != 4:
            raise UnsupportedFormat(f"GPTQ of {bits:g} bits is not supported, 4 are")
        if self.scales.shape != (groups, n) or not groups or k % groups:
            raise FormatError(f"GPTQ scales {self.scales.shape} do not fit weights {(n, k)}")
        if self.g_idx is not None and (self.g_idx != np.arange(k) // (k // groups)).any():
            raise UnsupportedFormat(
                "GPTQ with act-order (desc_act: g_idx is permuted) is not supported"
            )
        if self.qzeros is not None and self.qzeros.shape != (groups, n // 8):
            wanted = (groups, n // 8)
            raise FormatError(f"GPTQ qzeros have shape {self.qzeros.shape}, not {wanted}")

    def _width(self) -> float:
        """Bits a weight, by what tells the number of columns or of zero points."""
        rows, n = self.qweight.shape
        if self.g_idx is not None and len(self.g_idx):
            return float(32 * rows / len(self.g_idx))
        if self.qzeros is not None and len(self.qzeros) == len(self.scales) and n:
            return float(32 * self.qzeros.shape[1] / n)
        return 4

    @property
    def shape(self) -> tuple[int, int]:
        return self.qweight.shape[1], self.qweight.shape[0] * 8

    def codes(self) -> Codes | None:
        """None when zero points differ from 8."""
        if self.qzeros is not None and not _same_zero(self.qzeros):
            return None
        return Codes(_centred(self._bits()), np.ascontiguousarray(self.scales.T), 4)

    def stored(self) -> Stored | None:
        codes = self.codes()
        if codes is not None:
            return symmetric(codes)
        return with_minima(self._bits(), self.scales.T, -self._zeros() * self.scales.T)

    def decode(self) -> Floats:
        codes = self.codes()
        if codes is not None:
            return codes.decode()
        finite(self.scales, "scale")
        return _shifted(self._bits(), self._zeros(), self.scales.T)

    def _bits(self) -> Bytes:
        """[N, K]"""
        bits = self.qweight.view(np.uint32)[:, None, :] >> _SHIFTS[:, None] & 15
        return np.ascontiguousarray(bits.astype(np.uint8).reshape(self.shape[::-1]).T)

    def _zeros(self) -> Floats:
        """[N, groups]"""
        if self.qzeros is None:
            return np.full(self.scales.T.shape, 8, np.float32)
        fields = self.qzeros.view(np.uint32)[:, :, None] >> _SHIFTS & 15
        whole = fields.reshape(len(self.qzeros), -1) + (0 if self.whole_zeros else 1)
        return (whole & 15).T.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Awq:
    """`qweight` int32 [K, N/8], `qzeros` int32 [K/group, N/8], `scales` float32 [K/group, N]."""

    qweight: npt.NDArray[np.int32]
    qzeros: npt.NDArray[np.int32]
    scales: Floats

    def __post_init__(self) -> None:
        k, n = self.qweight.shape[0], self.qweight.shape[1] * 8
        groups = len(self.scales)
        if self.scales.shape != (groups, n) or not groups or k % groups:
            raise FormatError(f"AWQ scales {self.scales.shape} do not fit weights {(n, k)}")
        if self.qzeros.shape != (groups, n // 8):
            raise FormatError(f"AWQ qzeros have shape {self.qzeros.shape}, not {(groups, n // 8)}")
        finite(self.scales, "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return self.qweight.shape[1] * 8, self.qweight.shape[0]

    def decode(self) -> Floats:
        return _shifted(*self._parts(), self.scales.T)

    def stored(self) -> Stored | None:
        bits, zeros = self._parts()
        return with_minima(bits, self.scales.T, -zeros * self.scales.T)

    def _parts(self) -> tuple[Bytes, Floats]:
        """Codes [N, K] and zero points [N, groups]."""
        bits = np.ascontiguousarray(_awq_columns(self.qweight).T)
        return bits, _awq_columns(self.qzeros).T.astype(np.float32)


def rawint4(codes: Codes) -> RawInt4:
    """The inverse of `RawInt4.codes`."""
    shifted = (codes.values.astype(np.int16) + 8).astype(np.uint8)
    words = np.ascontiguousarray(shifted[:, 0::2] | shifted[:, 1::2] << 4)
    return RawInt4(words.view(np.int32), codes.scales)


def gptq(codes: Codes) -> Gptq:
    """The inverse of `Gptq.codes`."""
    shifted = (codes.values.T.astype(np.int32) + 8).astype(np.uint32)
    words = shifted.reshape(len(shifted) // 8, 8, -1) << _SHIFTS[:, None]
    qweight = np.bitwise_or.reduce(words, axis=1).view(np.int32)
    return Gptq(qweight, np.ascontiguousarray(codes.scales.T))


def _centred(codes: Bytes) -> npt.NDArray[np.int8]:
    return codes.view(np.int8) - np.int8(8)


def _shifted(bits: Bytes, zeros: Floats, scales: Floats) -> Floats:
    """(code - zero point) · scale, both [N, groups]."""
    group = bits.shape[1] // scales.shape[1]
    weights: Floats = (bits - zeros.repeat(group, 1)) * scales.repeat(group, 1)
    return weights


def _same_zero(qzeros: npt.NDArray[np.int32]) -> bool:
    """Every zero point is 8, stored as 7 or, by GPTQ v2, as 8."""
    words = np.unique(qzeros.view(np.uint32))
    return words.tolist() in ([], [0x77777777], [0x88888888])


def _awq_columns(words: npt.NDArray[np.int32]) -> Any:
    """[R, N/8] → [R, N] of codes 0…15."""
    fields = words.view(np.uint32)[:, :, None] >> _SHIFTS & 15
    out = np.empty(fields.shape, np.uint8)
    out[:, :, AWQ_ORDER] = fields
    return out.reshape(len(words), -1)
