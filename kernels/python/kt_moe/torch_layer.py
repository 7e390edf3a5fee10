"""Routed experts in torch, one expert at a time, with or without LoRA: forward and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch.nn import functional as F

Tensor: TypeAlias = torch.Tensor


class Base(Protocol):
    """What `kt_moe.Experts` offers to this module."""

    @property
    def num_experts(self) -> int: ...

    @property
    def act(self) -> str: ...

    def dequantised(self, expert: int) -> tuple[Any, Any, Any]: ...


class Visit(NamedTuple):
    expert: int
    token: Tensor
    slot: Tensor


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments on the CPU, floats in the dtype of the computation."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    mask: Tensor | None

    def visits(self) -> Iterator[Visit]:
        """Experts that are hit and not masked, each with its tokens."""
        for e in torch.unique(self.ids).tolist():
            if e >= 0 and (self.mask is None or not self.mask[e]):
                yield Visit(e, *torch.where(self.ids == e))

    def weight_of(self, visit: Visit) -> Tensor:
        return self.weights[visit.token, visit.slot, None]


@dataclass(frozen=True, slots=True)
class _Linear:
    """One matrix [out, in] with its low-rank update, if any."""

    weight: Tensor
    a: Tensor | None
    b: Tensor | None
    scale: float

    def run(self, x: Tensor) -> Tensor:
        y = x @ self.weight.T
        if self.a is not None and self.b is not None:
            y = y + self.scale * (x @ self.a.T) @ self.b.T
        return y

    def back(self, x: Tensor, dy: Tensor, da: Tensor | None, db: Tensor | None) -> Tensor:
        """dx; writes this expert's gradients of A and B into the slices `da` and `db`."""
        dx = dy @ self.weight
        if self.a is None or self.b is None or da is None or db is None:
            return dx
        dy = self.scale * dy
        inner = dy @ self.b
        db += dy.T @ (x @ self.a.T)
        da += inner.T @ x
        return dx + inner @ self.a


@dataclass(frozen=True, slots=True)
class Layer:
    gate: _Linear
    up: _Linear
    down: _Linear
    act: str

    def run(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        g, u = self.gate.run(x), self.up.run(x)
        h = _act(self.act, g) * u
        return g, u, h, self.down.run(h)


@dataclass(frozen=True, slots=True)
class Grads:
    x: Tensor
    weights: Tensor
    low_rank: tuple[Tensor, ...]

    def of(self, expert: int, projection: int) -> tuple[Tensor | None, Tensor | None]:
        if not self.low_rank:
            return None, None
        a, b = self.low_rank[2 * projection : 2 * projection + 2]
        return a[expert], b[expert]


def add_expert(grads: Grads, layer: Layer, call: Call, visit: Visit, dout: Tensor) -> None:
    rows, dy = call.x[visit.token], dout[visit.token]
    g, u, h, y = layer.run(rows)
    grads.weights[visit.token, visit.slot] = (dy * y).sum(1)
    dh = layer.down.back(h, call.weight_of(visit) * dy, *grads.of(visit.expert, 2))
    dx = layer.gate.back(rows, dh * u * _slope(layer.act, g), *grads.of(visit.expert, 0))
    dx = dx + layer.up.back(rows, dh * _act(layer.act, g), *grads.of(visit.expert, 1))
    grads.x.index_add_(0, visit.token, dx)


def layer_of(base: Base, e: int, low_rank: Any, scale: float, dtype: torch.dtype) -> Layer:
    panels = [torch.as_tensor(panel).to(dtype) for panel in base.dequantised(e)]
    pairs: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * 3
    if low_rank:
        slices = [on_cpu(t[e]).to(dtype) for t in low_rank]
        pairs = [(slices[0], slices[1]), (slices[2], slices[3]), (slices[4], slices[5])]
    gate, up, down = (_Linear(w, *pair, scale) for w, pair in zip(panels, pairs, strict=True))
    return Layer(gate, up, down, base.act)


def call_of(x: Tensor, ids: Tensor, weights: Tensor, mask: Tensor | None) -> Call:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    here = None if mask is None else on_cpu(mask)
    return Call(on_cpu(x).to(dtype), on_cpu(ids), on_cpu(weights).to(dtype), here)


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def zeros(call: Call, low_rank: Sequence[Tensor]) -> Grads:
    pairs = tuple(torch.zeros(t.shape, dtype=call.x.dtype) for t in low_rank)
    return Grads(torch.zeros_like(call.x), torch.zeros_like(call.weights), pairs)


def _act(name: str, x: Tensor) -> Tensor:
    return F.silu(x) if name == "silu" else F.gelu(x, approximate="tanh")


def _slope(name: str, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(_act(name, leaf).sum(), leaf)
    return slope
