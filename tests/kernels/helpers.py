"""A float64 reference of its own and small random layers, for the kernel tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Case:
    x: np.ndarray
    ids: np.ndarray
    weights: np.ndarray


def silu(v: np.ndarray) -> np.ndarray:
    return v / (1 + np.exp(-v))


def gelu(v: np.ndarray) -> np.ndarray:
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


def reference(
    matrices: Matrices, case: Case, mask: np.ndarray | None = None, act: str = "silu"
) -> np.ndarray:
    gate, up, down = (m.astype(np.float64) for m in matrices)
    x = case.x.astype(np.float64)
    out = np.zeros((x.shape[0], down.shape[1]))
    function = silu if act == "silu" else gelu
    for t, k in np.ndindex(*case.ids.shape):
        e = case.ids[t, k]
        if e < 0 or (mask is not None and mask[e]):
            continue
        h = function(gate[e] @ x[t]) * (up[e] @ x[t])
        out[t] += case.weights[t, k] * (down[e] @ h)
    return out


def random_matrices(rng: np.random.Generator, e: int, h: int, i: int) -> Matrices:
    def gaussian(n: int, k: int) -> np.ndarray:
        return (rng.standard_normal((e, n, k)) / np.sqrt(k)).astype(np.float32)

    return gaussian(i, h), gaussian(i, h), gaussian(h, i)


def random_case(rng: np.random.Generator, tokens: int, h: int, e: int, k: int) -> Case:
    picks = [rng.permutation(e)[:k] for _ in range(tokens)]
    ids = np.array(picks, np.int32).reshape(tokens, k)
    x = rng.standard_normal((tokens, h)).astype(np.float32)
    return Case(x, ids, rng.random((tokens, k)).astype(np.float32) + 0.1)


def random_low_rank(
    rng: np.random.Generator, e: int, h: int, i: int, rank: int
) -> list[np.ndarray]:
    sizes = [(h, i), (h, i), (i, h)]
    shapes = [s for n, m in sizes for s in ((e, rank, n), (e, m, rank))]
    return [(rng.standard_normal(s) / np.sqrt(s[2])).astype(np.float32) for s in shapes]


def dequantised(experts: object) -> Matrices:
    each = [experts.dequantised(e) for e in range(experts.num_experts)]
    gate, up, down = (np.stack(m) for m in zip(*each, strict=True))
    return gate, up, down


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30))


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32)
