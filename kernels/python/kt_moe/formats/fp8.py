"""FP8 e4m3 weights with float32 scales: one per block of 128×128, or one per row.

The layouts of DeepSeek-V3 checkpoints (`weight`, `weight_scale_inv`; edge blocks may be partial)
and of per-channel FP8 checkpoints (`weight`, `weight_scale`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kt_moe.formats.codes import finite
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import E4M3_MAX, Array, Bytes, Floats, dims, from_e4m3, to_e4m3

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Fp8Blocks:
    """`weight` uint8 [N, K]; `scale` float32 [⌈N/128⌉, ⌈K/128⌉]."""

    weight: Bytes
    scale: Floats

    def __post_init__(self) -> None:
        n, k = self.weight.shape
        wanted = (-(-n // BLOCK), -(-k // BLOCK))
        if self.scale.shape != wanted:
            raise FormatError(f"FP8 block scales have shape {self.scale.shape}, not {wanted}")
        finite(self.scale, "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return dims(self.weight)

    def decode(self) -> Floats:
        return from_e4m3(self.weight) * _spread(self.scale, self.shape)


@dataclass(frozen=True, slots=True)
class Fp8Rows:
    """`weight` uint8 [N, K]; `scale` float32 [N] or [N, 1]."""

    weight: Bytes
    scale: Floats

    def __post_init__(self) -> None:
        n = len(self.weight)
        if self.scale.shape not in ((n,), (n, 1)):
            raise FormatError(f"FP8 row scales have shape {self.scale.shape}, not {(n, 1)}")
        finite(self.scale, "scale")

    @property
    def shape(self) -> tuple[int, int]:
        return dims(self.weight)

    def decode(self) -> Floats:
        return from_e4m3(self.weight) * self.scale.reshape(-1, 1)


def fp8_blocks(weights: Array) -> Fp8Blocks:
    finite(weights, "weight")
    n, k = weights.shape
    padded = np.zeros((-(-n // BLOCK) * BLOCK, -(-k // BLOCK) * BLOCK), np.float32)
    padded[:n, :k] = np.abs(weights)
    peak = padded.reshape(len(padded) // BLOCK, BLOCK, -1, BLOCK).max(axis=(1, 3))
    scale = _scale(peak)
    return Fp8Blocks(to_e4m3(weights / _spread(scale, (n, k))), scale)


def fp8_rows(weights: Array) -> Fp8Rows:
    finite(weights, "weight")
    scale = _scale(np.abs(weights).max(axis=1, keepdims=True))
    return Fp8Rows(to_e4m3(weights / scale), scale)


def _scale(peak: Array) -> Floats:
    return np.where(peak > 0, peak / E4M3_MAX, 1).astype(np.float32)


def _spread(scale: Floats, shape: tuple[int, int]) -> Floats:
    return scale.repeat(BLOCK, 0).repeat(BLOCK, 1)[: shape[0], : shape[1]]
