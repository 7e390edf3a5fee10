"""What `KTMoEWrapper` needs for tensors of a GPU: page-locked buffers, and links of layers to them.

Layers of the same sizes share two sets of buffers: one layer copies while the one before is still
computed. Buffers hold a power of two of tokens, so few sets serve all batch sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from kt_moe.experts import Experts
from kt_moe.gpu import DtypeName, GpuBuffers, GpuLink, Sizes

Tensor: TypeAlias = torch.Tensor
PLACES = 2
DTYPES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
Key: TypeAlias = tuple[Sizes, int, int, bool]


@dataclass(slots=True)
class Staging:
    capture: list[int] = field(default_factory=list)
    buffers: dict[Key, GpuBuffers] = field(default_factory=dict)

    def of(self, x: Tensor, top_k: int, layer: int, *, later: bool) -> GpuBuffers:
        """Buffers for x [T, H]; those of deferred experts (`later`) are apart."""
        tokens = 1 << (len(x) - 1).bit_length()
        sizes = Sizes(tokens, x.shape[1], top_k, DTYPES[x.dtype])
        device = x.device.index or 0
        key = sizes, device, layer % PLACES, later
        if key not in self.buffers:
            self.buffers[key] = GpuBuffers(sizes, device)
        return self.buffers[key]

    def set_capture(self, sizes: Sequence[int]) -> None:
        self.capture = list(sizes)

    def clear(self) -> None:
        """Links keep theirs, as a graph may have captured them."""
        self.buffers.clear()


@dataclass(slots=True)
class LayerLinks:
    """One layer's links, made when a batch size first needs them and kept as long as the layer."""

    experts: Experts
    mask: Tensor
    links: dict[int, GpuLink] = field(default_factory=dict)

    def to(self, buffers: GpuBuffers) -> GpuLink:
        if id(buffers) not in self.links:
            sizes = buffers.sizes
            self.links[id(buffers)] = GpuLink(
                self.experts,
                sizes.max_tokens,
                sizes.dtype,
                device=buffers.gpu.device(),
                mask=self.mask,
                buffers=buffers,
            )
        return self.links[id(buffers)]
