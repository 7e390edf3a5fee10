"""Moves data between a GPU and experts on the CPU, through page-locked memory.

Calls of our kernels are part of the CUDA stream, so the next layers can be enqueued while the CPU
still works. With other experts the caller waits once per layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

if TYPE_CHECKING:
    import kt_moe
    from kt_moe.gpu import GpuBuffers, GpuLink, Sizes, Way

Tensor: TypeAlias = torch.Tensor
Result: TypeAlias = Callable[[], Tensor]
log = logging.getLogger(__name__)
LEAST_ROWS = 512
"""Buffers hold at least this many tokens: a chunk of a prompt."""


@dataclass(frozen=True, slots=True)
class _Pinned:
    """x and out [rows, H], ids and weights [rows, K]."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    out: Tensor

    @classmethod
    def like(cls, x: Tensor, ids: Tensor, weights: Tensor) -> _Pinned:
        made = (torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in (x, ids, weights, x))
        return cls(*made)

    def fit(self, *tensors: Tensor) -> bool:
        pairs = tuple(zip((self.x, self.ids, self.weights), tensors, strict=True))
        same = all(a.dtype == b.dtype and a.shape[1:] == b.shape[1:] for a, b in pairs)
        return same and len(self.x) >= len(tensors[0])

    def first(self, rows: int) -> _Pinned:
        return _Pinned(*(getattr(self, field.name)[:rows] for field in fields(self)))


class Crossing:
    """One for all layers of a model: a layer writes only after the one before has been read.

    What they give back is called for the result; what the GPU is given between the two runs
    while the CPU computes.
    """

    def __init__(self) -> None:
        self._ways: list[Way] = ["mailbox", "host-function"]
        self._pinned: _Pinned | None = None
        self._buffers: dict[tuple[Sizes, int], GpuBuffers] = {}
        self._links: dict[tuple[kt_moe.Experts, Sizes, int], GpuLink] = {}

    def any(
        self, x: Tensor, ids: Tensor, weights: Tensor, compute: Callable[..., Tensor]
    ) -> Result:
        """Experts that are any function of tensors on the CPU."""
        weights = weights.float()
        if self._pinned is None or not self._pinned.fit(x, ids, weights):
            self._pinned = _Pinned.like(x, ids, weights)
        host = self._pinned.first(len(x))
        for there, here in ((host.x, x), (host.ids, ids), (host.weights, weights)):
            there.copy_(here, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(x.device))

        def finish() -> Tensor:
            arrived.synchronize()
            host.out.copy_(compute(host.x, host.ids, host.weights))
            return host.out.to(x.device, non_blocking=True)

        return finish

    def packed(self, x: Tensor, ids: Tensor, weights: Tensor, layer: kt_moe.Experts) -> Result:
        """Our kernels' experts, by the first way that this GPU's driver allows."""
        from kt_moe.gpu import GpuError

        while self._ways:
            try:
                return self._linked(x, ids, weights, layer)
            except GpuError as error:
                log.warning("no experts by %s: %s", self._ways.pop(0), error)
                self._links.clear()
        return self.any(x, ids, weights, layer.forward)

    def _linked(self, x: Tensor, ids: Tensor, weights: Tensor, layer: kt_moe.Experts) -> Result:
        x, ids, weights = x.contiguous(), ids.contiguous(), weights.float().contiguous()
        out, stream = torch.empty_like(x), torch.cuda.current_stream(x.device).cuda_stream
        link = self._link(x, ids, layer)
        link.submit(stream, len(x), x.data_ptr(), ids.data_ptr(), weights.data_ptr())

        def finish() -> Tensor:
            link.sync(stream, len(x), out.data_ptr())
            return out

        return finish

    def _link(self, x: Tensor, ids: Tensor, layer: kt_moe.Experts) -> GpuLink:
        from kt_moe.gpu import GpuBuffers, GpuLink, Sizes

        rows = max(LEAST_ROWS, 1 << (len(x) - 1).bit_length())
        sizes = Sizes(rows, layer.hidden, layer.top_k, _name(x.dtype), _name(ids.dtype))
        device: int = x.device.index
        buffers = self._buffers.get((sizes, device))
        if buffers is None:
            buffers = self._buffers[sizes, device] = GpuBuffers(sizes, device)
        link = self._links.get((layer, sizes, device))
        if link is None:
            link = self._links[layer, sizes, device] = GpuLink(
                layer,
                rows,
                sizes.dtype,
                ids_dtype=sizes.ids_dtype,
                device=device,
                way=self._ways[0],
                buffers=buffers,
            )
        return link


def _name(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")
