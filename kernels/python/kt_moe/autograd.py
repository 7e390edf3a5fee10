"""Routed experts as a differentiable torch function: frozen base weights, optional LoRA.

Gradients reach the input, the routing weights and the low-rank matrices. A base with passes of its
own, as `kt_moe.Experts` has, runs them; float64 and other bases run in torch, one expert at a time
from its float panels, so no transposed or unpacked copy of the layer stays. The formulas are those
of `kt_moe.reference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch

from kt_moe.torch_layer import (
    Base,
    Call,
    Grads,
    Tensor,
    add_expert,
    call_of,
    layer_of,
    on_cpu,
    zeros,
)


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


@runtime_checkable
class HasLowRank(Protocol):
    """Both passes with LoRA: `low_rank` is A and B of gate, up and down in turn, in float32."""

    def forward_low_rank(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        low_rank: Sequence[Tensor],
        scale: float,
        *,
        mask: Tensor | None,
    ) -> Tensor: ...

    def backward_low_rank(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor,
        dout: Tensor,
        low_rank: Sequence[Tensor],
        scale: float,
        *,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]: ...


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
        call = call_of(x, ids, weights, mask)
        if (out := _own_forward(base, on_cpu(x), call, low_rank, scale)) is not None:
            return out.to(x.device)
        out = torch.zeros_like(call.x)
        for visit in call.visits():
            layer = layer_of(base, visit.expert, low_rank, scale, call.x.dtype)
            y = layer.run(call.x[visit.token])[-1]
            out.index_add_(0, visit.token, call.weight_of(visit) * y)
        return out.to(x)

    @staticmethod
    def backward(ctx: Any, *douts: Tensor) -> tuple[Tensor | None, ...]:
        x, ids, weights, *low_rank = ctx.saved_tensors
        call = call_of(x, ids, weights, ctx.mask)
        grads = _own_backward(ctx.base, on_cpu(x), call, on_cpu(douts[0]), low_rank, ctx.scale)
        if grads is None:
            grads = zeros(call, low_rank)
            for visit in call.visits():
                layer = layer_of(ctx.base, visit.expert, low_rank, ctx.scale, call.x.dtype)
                add_expert(grads, layer, call, visit, douts[0].to(call.x))
        lora = (g.to(p) for g, p in zip(grads.low_rank, low_rank, strict=True))
        return (grads.x.to(x), None, grads.weights.to(weights), None, None, None, *lora)


def _own_forward(
    base: Base, x: Tensor, call: Call, low_rank: Sequence[Tensor], scale: float
) -> Tensor | None:
    """By the base's own pass, in x's dtype; None where it has none for this call."""
    if x.dtype == torch.float64:
        return None
    if not low_rank and isinstance(base, HasForward):
        return base.forward(x, call.ids, call.weights, mask=call.mask)
    if _one_rank(low_rank) and isinstance(base, HasLowRank):
        matrices = [on_cpu(m).float() for m in low_rank]
        return base.forward_low_rank(x, call.ids, call.weights, matrices, scale, mask=call.mask)
    return None


def _own_backward(
    base: Base, x: Tensor, call: Call, dout: Tensor, low_rank: Sequence[Tensor], scale: float
) -> Grads | None:
    if x.dtype == torch.float64:
        return None
    if not low_rank and isinstance(base, HasBackward):
        return Grads(*base.backward(x, call.ids, call.weights, dout, mask=call.mask), ())
    if _one_rank(low_rank) and isinstance(base, HasLowRank):
        matrices = [on_cpu(m).float() for m in low_rank]
        dx, dweights, grads = base.backward_low_rank(
            x, call.ids, call.weights, dout, matrices, scale, mask=call.mask
        )
        return Grads(dx, dweights, tuple(grads))
    return None


def _one_rank(low_rank: Sequence[Tensor]) -> bool:
    ranks = {m.shape[1] for m in low_rank[::2]} | {m.shape[2] for m in low_rank[1::2]}
    return len(ranks) == 1 and 0 not in ranks


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
