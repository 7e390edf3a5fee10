"""A started call of a layer's experts, on the CPU or in a CUDA stream; `result` waits for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch

from kt_moe.experts import Experts
from kt_moe.gpu import GpuLink

Tensor: TypeAlias = torch.Tensor


class Running(Protocol):
    def result(self) -> Tensor:
        """[T, H], filled on the CPU or in stream order."""

    def again(self, ids: Tensor) -> Running:
        """The same tokens and weights with other ids, in the background."""

    @property
    def shape(self) -> torch.Size: ...


@dataclass(frozen=True, slots=True)
class OnCpu:
    experts: Experts
    mask: Tensor
    x: Tensor
    weights: Tensor
    out: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.out.shape

    def result(self) -> Tensor:
        self.experts.sync()
        return self.out

    def again(self, ids: Tensor) -> OnCpu:
        kept = self.x.clone(), self.weights.clone()  # the caller may write to its own meanwhile
        return start_on_cpu(self.experts, self.mask, kept[0], ids, kept[1])


@dataclass(frozen=True, slots=True)
class OnGpu:
    link: GpuLink
    later: GpuLink
    stream: int
    x: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def result(self) -> Tensor:
        out = torch.empty_like(self.x)
        self.link.sync(self.stream, len(out), out.data_ptr())
        return out

    def again(self, ids: Tensor) -> OnGpu:
        held = self.link.buffers  # x and weights have come as far as here already
        addresses = held.x.ctypes.data, ids.data_ptr(), held.weights.ctypes.data
        self.later.submit(self.stream, len(ids), *addresses)
        return OnGpu(self.later, self.later, self.stream, self.x)


def start_on_cpu(experts: Experts, mask: Tensor, x: Tensor, ids: Tensor, weights: Tensor) -> OnCpu:
    """x [T, H], ids [T, K] int64 and weights [T, K] float32, all contiguous."""
    out = torch.empty_like(x)
    experts.submit(x, ids, weights, mask=mask, out=out)
    return OnCpu(experts, mask, x, weights, out)


def start_on_gpu(
    link: GpuLink, later: GpuLink, stream: int, x: Tensor, ids: Tensor, weights: Tensor
) -> OnGpu:
    """`start_on_cpu` for tensors of a GPU; `later` is the link for ids that come after."""
    link.submit(stream, len(x), x.data_ptr(), ids.data_ptr(), weights.data_ptr())
    return OnGpu(link, later, stream, x)
