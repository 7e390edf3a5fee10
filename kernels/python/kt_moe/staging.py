"""Copies between a GPU and the CPU experts: pinned buffers that live as long as a batch size does.

Buffers of the batch sizes that are to be captured stay; of the others only the last one does.
Two slots let a layer copy while the one before is still at work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

Tensor: TypeAlias = torch.Tensor
SLOTS = 2


@dataclass(frozen=True, slots=True)
class Slot:
    """x [T, H], ids [T, K] int64, weights [T, K] float32 and out on the CPU; result on the GPU."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    out: Tensor
    result: Tensor


Key: TypeAlias = tuple[int, int, int, torch.dtype, torch.device]


@dataclass(slots=True)
class Staging:
    capture: list[int] = field(default_factory=list)
    kept: dict[Key, tuple[Slot, ...]] = field(default_factory=dict)
    last: tuple[Key, tuple[Slot, ...]] | None = None

    def slot(self, x: Tensor, top_k: int, layer: int) -> Slot:
        key = (len(x), x.shape[1], top_k, x.dtype, x.device)
        if key in self.kept:
            return self.kept[key][layer % SLOTS]
        if self.last is None or self.last[0] != key:
            self.last = key, tuple(_slot(x, top_k) for _ in range(SLOTS))
        if len(x) in self.capture:
            self.kept[key] = self.last[1]
        return self.last[1][layer % SLOTS]

    def set_capture(self, sizes: Sequence[int]) -> None:
        self.capture = list(sizes)

    def clear(self) -> None:
        self.kept.clear()
        self.last = None


def _slot(x: Tensor, top_k: int) -> Slot:
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return Slot(
        torch.empty(x.shape, dtype=x.dtype, **pinned),
        torch.empty((len(x), top_k), dtype=torch.int64, **pinned),
        torch.empty((len(x), top_k), dtype=torch.float32, **pinned),
        torch.empty(x.shape, dtype=x.dtype, **pinned),
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
    )
