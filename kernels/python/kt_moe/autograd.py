"""Routed experts as a differentiable torch function: frozen base weights, optional LoRA.

Gradients reach the input, the routing weights and the low-rank matrices. The base is read expert by
expert as float panels, so no transposed or unpacked copy of the layer stays. The formulas are those
of `kt_moe.reference`. A base that has a `backward` of its own computes the gradients itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

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


@runtime_checkable
class HasForward(Protocol):
    def forward(
        self, x: Tensor, ids: Tensor, weights: Tensor, *, mask: Tensor | None
    ) -> Tensor: ...


@runtime_checkable
class HasBackward(Protocol):
    """Gradients of the base alone, for calls without LoRA: dx and d(weights)."""

    def backward(
        self, x: Tensor, ids: Tensor, weights: Tensor, dout: Tensor, *, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank matrices of every expert: A [E, rank, in], B [E, out, rank]; adds scale·B·A."""

    gate_a: Tensor
    gate_b: Tensor
    up_a: Tensor
    up_b: Tensor
    down_a: Tensor
    down_b: Tensor
    scale: float = 1.0

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, f.name) for f in fields(self) if f.name != "scale")


def routed_experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor,
    base: Base,
    *,
    mask: Tensor | None = None,
    lora: Lora | None = None,
) -> Tensor:
    """x [T, H], ids [T, K] (negative: nobody), weights [T, K] → [T, H] in x's dtype and device.

    True in `mask` [E] skips an expert. Raises ValueError for shapes that do not fit.
    """
    _check(x, ids, weights, base, mask, lora)
    low_rank = lora.tensors() if lora is not None else ()
    scale = lora.scale if lora is not None else 1.0
    out: Tensor = _RoutedExperts.apply(x, ids, weights, base, mask, scale, *low_rank)
    return out


class _RoutedExperts(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        base: Base,
        mask: Tensor | None,
        scale: float,
        *low_rank: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, ids, weights, *low_rank)
        ctx.base, ctx.mask, ctx.scale = base, mask, scale
        call = _call(x, ids, weights, base, mask)
        if not low_rank and isinstance(base, HasForward) and call.x.dtype != torch.float64:
            out = base.forward(_cpu(x), call.ids, call.weights.float().contiguous(), mask=call.mask)
            return out.to(x.device)
        out = torch.zeros_like(call.x)
        for visit in call.visits():
            layer = _layer(base, visit.expert, low_rank, scale, call.x.dtype)
            y = layer.run(call.x[visit.token])[-1]
            out.index_add_(0, visit.token, call.weight_of(visit) * y)
        return out.to(x)

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> tuple[Tensor | None, ...]:
        x, ids, weights, *low_rank = ctx.saved_tensors
        call = _call(x, ids, weights, ctx.base, ctx.mask)
        dout = douts[0].to(call.x)
        if not low_rank and isinstance(ctx.base, HasBackward):
            dx, dweights = ctx.base.backward(
                _cpu(x), call.ids, call.weights, _cpu(douts[0]), mask=call.mask
            )
            return (dx.to(x), None, dweights.to(weights), None, None, None)
        grads = _zeros(call, low_rank)
        for visit in call.visits():
            layer = _layer(ctx.base, visit.expert, low_rank, ctx.scale, call.x.dtype)
            _add_expert(grads, layer, call, visit, dout)
        lora = (g.to(p) for g, p in zip(grads.low_rank, low_rank, strict=True))
        return (grads.x.to(x), None, grads.weights.to(weights), None, None, None, *lora)


class _Visit(NamedTuple):
    expert: int
    token: Tensor
    slot: Tensor


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments on the CPU, floats in the dtype of the computation."""

    x: Tensor
    ids: Tensor
    weights: Tensor
    mask: Tensor | None

    def visits(self) -> Iterator[_Visit]:
        """Experts that are hit and not masked, each with its tokens."""
        for e in torch.unique(self.ids).tolist():
            if e >= 0 and (self.mask is None or not self.mask[e]):
                yield _Visit(e, *torch.where(self.ids == e))

    def weight_of(self, visit: _Visit) -> Tensor:
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
class _Layer:
    gate: _Linear
    up: _Linear
    down: _Linear
    act: str

    def run(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        g, u = self.gate.run(x), self.up.run(x)
        h = _act(self.act, g) * u
        return g, u, h, self.down.run(h)


@dataclass(frozen=True, slots=True)
class _Grads:
    x: Tensor
    weights: Tensor
    low_rank: tuple[Tensor, ...]

    def of(self, expert: int, projection: int) -> tuple[Tensor | None, Tensor | None]:
        if not self.low_rank:
            return None, None
        a, b = self.low_rank[2 * projection : 2 * projection + 2]
        return a[expert], b[expert]


def _add_expert(grads: _Grads, layer: _Layer, call: _Call, visit: _Visit, dout: Tensor) -> None:
    rows, dy = call.x[visit.token], dout[visit.token]
    g, u, h, y = layer.run(rows)
    grads.weights[visit.token, visit.slot] = (dy * y).sum(1)
    dh = layer.down.back(h, call.weight_of(visit) * dy, *grads.of(visit.expert, 2))
    dx = layer.gate.back(rows, dh * u * _slope(layer.act, g), *grads.of(visit.expert, 0))
    dx = dx + layer.up.back(rows, dh * _act(layer.act, g), *grads.of(visit.expert, 1))
    grads.x.index_add_(0, visit.token, dx)


def _layer(base: Base, e: int, low_rank: Any, scale: float, dtype: torch.dtype) -> _Layer:
    panels = [torch.as_tensor(panel).to(dtype) for panel in base.dequantised(e)]
    pairs: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * 3
    if low_rank:
        slices = [_cpu(t[e]).to(dtype) for t in low_rank]
        pairs = [(slices[0], slices[1]), (slices[2], slices[3]), (slices[4], slices[5])]
    gate, up, down = (_Linear(w, *pair, scale) for w, pair in zip(panels, pairs, strict=True))
    return _Layer(gate, up, down, base.act)


def _call(x: Tensor, ids: Tensor, weights: Tensor, base: Base, mask: Tensor | None) -> _Call:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    on_cpu = None if mask is None else _cpu(mask)
    return _Call(_cpu(x).to(dtype), _cpu(ids), _cpu(weights).to(dtype), on_cpu)


def _cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _zeros(call: _Call, low_rank: list[Tensor]) -> _Grads:
    pairs = tuple(torch.zeros(t.shape, dtype=call.x.dtype) for t in low_rank)
    return _Grads(torch.zeros_like(call.x), torch.zeros_like(call.weights), pairs)


def _act(name: str, x: Tensor) -> Tensor:
    return F.silu(x) if name == "silu" else F.gelu(x, approximate="tanh")


def _slope(name: str, x: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(_act(name, leaf).sum(), leaf)
    return slope


def _check(
    x: Tensor, ids: Tensor, weights: Tensor, base: Base, mask: Tensor | None, lora: Lora | None
) -> None:
    if x.ndim != 2 or ids.ndim != 2 or len(ids) != len(x):
        raise ValueError(f"x is {list(x.shape)} and ids are {list(ids.shape)}: not [T, H], [T, K]")
    if weights.shape != ids.shape:
        raise ValueError(f"weights are {list(weights.shape)}, ids {list(ids.shape)}")
    if ids.is_floating_point():
        raise TypeError(f"ids are {ids.dtype}, not integers")
    count = base.num_experts
    if ids.numel() and int(ids.max()) >= count:
        raise ValueError(f"expert {int(ids.max())} is chosen, and there are {count}")
    if mask is not None and mask.shape != (count,):
        raise ValueError(f"mask is {list(mask.shape)}, not [{count}]")
    for field, tensor in zip(fields(Lora), lora.tensors() if lora else (), strict=False):
        if tensor.ndim != 3 or len(tensor) != count:
            raise ValueError(f"{field.name} is {list(tensor.shape)}, not [{count}, …, …]")
