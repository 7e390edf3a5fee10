"""Attention of the dense model behind query and key norms, as Qwen3-MoE has them.

Heads become twice as wide. The real rotary pair j, of frequency θ^(-2j/64), takes the place of pair
2j among 64 (θ^(-4j/128), the same), and the odd pairs are free. A large constant in a free pair of
the queries, and in another one of the keys, makes every root mean square the same; the norms' gains
undo it. The two constants never meet in a product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kt_cli.weights.floats import Bits, Floats, float32_to_bf16

WIDE = 128
CONSTANT = 2.0**14
"""Far above what queries and keys reach, so that they hardly change the mean square; float16 holds
it, and what the norm makes of it."""
QUERY_LANE, KEY_LANE = 1, 3


@dataclass(frozen=True, slots=True)
class Scales:
    """All exact in bf16."""

    query_constant: float
    key_constant: float
    query_gain: float
    key_gain: float


def scales() -> Scales:
    """The norms divide by constant/√128. Both gains together make up for that and for attention,
    which divides by √128 now and by √64 before: gains = √2 · constants / 128."""
    mantissas: npt.NDArray[np.float64] = 1 + np.arange(128) / 128
    ratios = mantissas[:, None, None] * mantissas[:, None] / mantissas
    best = np.unravel_index(int(np.abs(ratios - np.sqrt(2)).argmin()), ratios.shape)
    query, key, constant = (float(mantissas[i]) for i in best)
    return Scales(constant * CONSTANT, CONSTANT, query * CONSTANT / 8, key * CONSTANT / 16)


def attention(layer: Mapping[str, Floats], heads: int, kv_heads: int) -> Iterator[tuple[str, Bits]]:
    """Weights and biases by their short names."""
    chosen = scales()
    rotated = (
        ("q_proj", heads, QUERY_LANE, chosen.query_constant),
        ("k_proj", kv_heads, KEY_LANE, chosen.key_constant),
    )
    for name, count, lane, constant in rotated:
        rows = layer[f"self_attn.{name}"]
        yield f"self_attn.{name}.weight", float32_to_bf16(_spread(rows, count))
        bias: Floats = np.zeros((count, WIDE), np.float32)
        bias[:, lane] = constant
        yield f"self_attn.{name}.bias", float32_to_bf16(bias.reshape(-1))
    value, output = layer["self_attn.v_proj"], layer["self_attn.o_proj"]
    yield "self_attn.v_proj.weight", float32_to_bf16(_below(value, kv_heads))
    yield "self_attn.v_proj.bias", np.zeros(kv_heads * WIDE, np.uint16)
    yield "self_attn.o_proj.weight", float32_to_bf16(_below(output.T, heads).T)
    yield "self_attn.o_proj.bias", np.zeros(len(output), np.uint16)
    for name, gain in (("q_norm", chosen.query_gain), ("k_norm", chosen.key_gain)):
        yield f"self_attn.{name}.weight", float32_to_bf16(np.full(WIDE, gain, np.float32))


def _spread(rows: Floats, heads: int) -> Floats:
    """Real dimensions to the even places: both halves of a head keep their order."""
    out = np.zeros((heads, WIDE, rows.shape[1]), np.float32)
    out[:, ::2] = rows.reshape(heads, -1, rows.shape[1])
    return out.reshape(heads * WIDE, -1)


def _below(rows: Floats, heads: int) -> Floats:
    """Real dimensions first in every head, zeros after them."""
    narrow = rows.reshape(heads, -1, rows.shape[1])
    out = np.zeros((heads, WIDE, rows.shape[1]), np.float32)
    out[:, : narrow.shape[1]] = narrow
    return out.reshape(heads * WIDE, -1)
