"""Exact sparse upcycling: a dense MLP becomes routed experts that compute the same function.

The neurons are cut into P slices and every slice is copied C times: P·C experts, top-P.
A bank of C random rows makes the router: copy c of slice p listens to row (c + p) mod C. So the P
largest logits are always one copy of each slice, tied, each weighs 1/P after normalisation, and
with `down` scaled by P the sum of the chosen experts is the dense MLP. Which copies are chosen
depends on the token. After "Sparse Upcycling", https://arxiv.org/abs/2212.05055.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kt_cli.weights.floats import Bits, Floats, float32_to_bf16


@dataclass(frozen=True, slots=True)
class Split:
    slices: int
    copies: int

    @property
    def experts(self) -> int:
        return self.slices * self.copies


@dataclass(frozen=True, slots=True)
class Expert:
    gate: Bits
    up: Bits
    down: Bits


def experts(layer: Mapping[str, Floats], split: Split) -> Iterator[Expert]:
    """In bf16. Copies share their arrays."""
    gate, up, down = (layer[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))
    width = len(gate) // split.slices
    for start in range(0, len(gate), width):
        part = slice(start, start + width)
        expert = Expert(
            float32_to_bf16(gate[part]),
            float32_to_bf16(up[part]),
            float32_to_bf16(down[:, part] * np.float32(split.slices)),
        )
        yield from [expert] * split.copies


def router(layer: Mapping[str, Floats], split: Split, index: int) -> Bits:
    """[experts, hidden]; rows that tie are equal to the last bit."""
    gain = layer["post_attention_layernorm"]
    # RandomState, because its stream never changes between versions of numpy.
    bank = np.random.RandomState(index).standard_normal((split.copies, len(gain)))
    rows = float32_to_bf16((bank / np.sqrt(len(gain))).astype(np.float32))
    order = [(c + p) % split.copies for p in range(split.slices) for c in range(split.copies)]
    return rows[order]
