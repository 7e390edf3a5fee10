"""Routed experts of one MoE layer in plain numpy: the twin that every kernel is compared with.

    out[t] = Σ_k w[t,k] · down_e( act(gate_e(x_t)) ⊙ up_e(x_t) ),   e = ids[t,k]

Every projection may carry a low-rank update scale·B·A beside its frozen matrix. Computes in the
dtype of the weights, so float64 weights give a float64 reference. It knows nothing of formats,
threads or instruction sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Activation:
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0, -x))


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def silu_slope(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


_GELU = np.sqrt(2 / np.pi)


def gelu(x: Array) -> Array:
    """The tanh form, as in the model families that name it `gelu_pytorch_tanh`."""
    return 0.5 * x * (1 + np.tanh(_GELU * (x + 0.044715 * x**3)))


def gelu_slope(x: Array) -> Array:
    t = np.tanh(_GELU * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * _GELU * (1 + 3 * 0.044715 * x * x)


ACTIVATIONS = {"silu": Activation(silu, silu_slope), "gelu": Activation(gelu, gelu_slope)}


@dataclass(frozen=True, slots=True)
class LowRank:
    """A LoRA pair for every expert: `a` [E, rank, in], `b` [E, out, rank]."""

    a: Array
    b: Array
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix per expert, `weight` [E, out, in], with an optional low-rank update."""

    weight: Array
    lora: LowRank | None = None

    def forward(self, e: int, x: Array) -> Array:
        y = x @ self.weight[e].T
        if self.lora is not None:
            y = y + self.lora.scale * (x @ self.lora.a[e].T) @ self.lora.b[e].T
        return y

    def backward(self, e: int, x: Array, dy: Array, grads: LowRank | None) -> Array:
        """dx; adds this expert's gradients of A and B to `grads`."""
        dx = dy @ self.weight[e]
        if self.lora is None or grads is None:
            return dx
        dy = self.lora.scale * dy
        inner = dy @ self.lora.b[e]
        grads.b[e] += dy.T @ (x @ self.lora.a[e].T)
        grads.a[e] += inner.T @ x
        return dx + inner @ self.lora.a[e]


@dataclass(frozen=True, slots=True)
class Layer:
    """gate and up are [E, I, H], down is [E, H, I]; True in `mask` marks an expert to skip."""

    gate: Projection
    up: Projection
    down: Projection
    act: str = "silu"
    mask: Array | None = None

    @property
    def experts(self) -> int:
        return len(self.gate.weight)


@dataclass(frozen=True, slots=True)
class Gradients:
    """Gradients of x [T, H], of the routing weights [T, K] and of the low-rank pairs."""

    x: Array
    weights: Array
    gate: LowRank | None
    up: LowRank | None
    down: LowRank | None


def layer(gate: Array, up: Array, down: Array, act: str = "silu", mask: Any = None) -> Layer:
    """A layer from bare matrices, without low-rank updates."""
    return Layer(Projection(gate), Projection(up), Projection(down), act, mask)


def forward(layer: Layer, x: Array, ids: Array, weights: Array) -> Array:
    """x [T, H], ids [T, K] (negative: nobody), weights [T, K] → [T, H]."""
    x = x.astype(layer.gate.weight.dtype)
    out = np.zeros_like(x)
    for e, t, k in _visits(layer, ids):
        np.add.at(out, t, weights[t, k, None] * _expert(layer, e, x[t])[-1])
    return out


def backward(layer: Layer, x: Array, ids: Array, weights: Array, dout: Array) -> Gradients:
    """Gradients for dout [T, H]; the matrices themselves are frozen."""
    x, dout = x.astype(layer.gate.weight.dtype), dout.astype(layer.gate.weight.dtype)
    grads = Gradients(
        np.zeros_like(x),
        np.zeros(weights.shape, x.dtype),
        *(_zeros(p) for p in (layer.gate, layer.up, layer.down)),
    )
    act = ACTIVATIONS[layer.act]
    for e, t, k in _visits(layer, ids):
        rows = x[t]
        g, u, h, y = _expert(layer, e, rows)
        grads.weights[t, k] = np.einsum("nh,nh->n", dout[t], y)
        dh = layer.down.backward(e, h, weights[t, k, None] * dout[t], grads.down)
        dx = layer.gate.backward(e, rows, dh * u * act.slope(g), grads.gate)
        dx = dx + layer.up.backward(e, rows, dh * act.value(g), grads.up)
        np.add.at(grads.x, t, dx)
    return grads


def _expert(layer: Layer, e: int, x: Array) -> tuple[Array, Array, Array, Array]:
    g, u = layer.gate.forward(e, x), layer.up.forward(e, x)
    h = ACTIVATIONS[layer.act].value(g) * u
    return g, u, h, layer.down.forward(e, h)


def _visits(layer: Layer, ids: Array) -> Iterator[tuple[int, Array, Array]]:
    """(expert, tokens, slots) of every expert that is hit and not masked."""
    if ids.size and ids.max() >= layer.experts:
        raise ValueError(f"expert {ids.max()} is chosen, and there are {layer.experts}")
    for e in np.unique(ids[ids >= 0]).tolist():
        if layer.mask is None or not layer.mask[e]:
            yield e, *np.nonzero(ids == e)


def _zeros(projection: Projection) -> LowRank | None:
    lora = projection.lora
    return None if lora is None else LowRank(np.zeros_like(lora.a), np.zeros_like(lora.b))
