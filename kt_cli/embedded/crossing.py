"""Between a GPU and experts on the CPU: pinned buffers, and one wait of the CPU a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Buffers:
    """Pinned: x and out [rows, H], ids and weights [rows, K]."""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    out: torch.Tensor

    @classmethod
    def like(cls, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> _Buffers:
        made = (torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (x, ids, weights, x))
        return cls(*made)

    def fit(self, *tensors: torch.Tensor) -> bool:
        mine = (self.x, self.ids, self.weights)
        pairs = tuple(zip(mine, tensors, strict=True))
        return all(a.dtype == b.dtype and a.shape[1] == b.shape[1] for a, b in pairs) and all(
            len(a) >= len(b) for a, b in pairs
        )

    def first(self, rows: int) -> _Buffers:
        return _Buffers(*(getattr(self, field.name)[:rows] for field in fields(self)))


class Crossing:
    """One for all layers of a model: a layer writes only after the one before has been read."""

    def __init__(self) -> None:
        self._buffers: _Buffers | None = None

    def start(
        self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, compute: Compute
    ) -> Callable[[], torch.Tensor]:
        """Copies to the CPU; what is called later waits for that, computes and copies back.

        What the GPU is given between the two runs while the CPU computes.
        """
        weights = weights.float()
        if self._buffers is None or not self._buffers.fit(x, ids, weights):
            self._buffers = _Buffers.like(x, ids, weights)
        host = self._buffers.first(len(x))
        for there, here in ((host.x, x), (host.ids, ids), (host.weights, weights)):
            there.copy_(here, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(x.device))

        def finish() -> torch.Tensor:
            arrived.synchronize()
            host.out.copy_(compute(host.x, host.ids, host.weights))
            return host.out.to(x.device, non_blocking=True)

        return finish
