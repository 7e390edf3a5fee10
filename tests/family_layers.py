"""Tensors of tiny layers, each with the line of the ledger it belongs to.

Names are those of the published checkpoints; nothing here comes from the catalogue.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from tests.tiny_models import DTYPE_BYTES

H, VOCAB, E, I = 256, 512, 4, 128  # noqa: E741
DENSE, SHARED = 384, 192
HEADS, KV, DIM = 4, 2, 64
NOPE, ROPE, VALUE, RANK, QUERY = 64, 32, 96, 128, 160
INDEX_HEADS, INDEX = 2, 128
KEY_HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM, KERNEL = 2, 4, 32, 48, 4
EMBEDDING, SMALL = "embedding", "router, norms"
HF, MIXTRAL = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")


@dataclass
class Headers:
    """`line` replaces every line while it is set: a draft layer is one whole."""

    fp8: bool = False
    tensors: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    bytes: Counter[str] = field(default_factory=Counter)
    parameters: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    """Bytes of attention that every GPU keeps whole."""
    heads: int = 0
    """Bytes of attention that are keys' and values' projections, one part for each of the heads."""
    line: str = ""

    def add(
        self, line: str, name: str, *shape: int, dtype: str = "BF16", weights: float = 1
    ) -> None:
        """`weights` that an item stands for: none in scales, two in a byte of packed halves."""
        line = self.line or line
        self.tensors[name] = (dtype, shape)
        self.bytes[line] += DTYPE_BYTES[dtype] * math.prod(shape)
        self.parameters[line] += int(weights * math.prod(shape))

    def matrix(self, line: str, name: str, rows: int, columns: int, whole: bool = False) -> None:
        """In fp8 with a scale for each block of 128 × 128."""
        before = self.bytes["attention"]
        self.add(line, f"{name}.weight", rows, columns, dtype="F8_E4M3" if self.fp8 else "BF16")
        if self.fp8:
            blocks = -(-rows // 128), -(-columns // 128)
            self.add(line, f"{name}.weight_scale_inv", *blocks, dtype="F32", weights=0)
        self.whole += self.bytes["attention"] - before if whole else 0

    def mlp(self, line: str, place: str, width: int, names: tuple[str, str, str] = HF) -> None:
        for name, shape in zip(names, ((width, H), (width, H), (H, width)), strict=True):
            self.matrix(line, f"{place}.{name}", *shape)

    def norms(self, place: str, **sizes: int) -> None:
        for name, size in sizes.items():
            self.add(SMALL, f"{place}.{name}.weight", size)

    def outer(self) -> None:
        self.add(EMBEDDING, "model.embed_tokens.weight", VOCAB, H)
        self.add(EMBEDDING, "lm_head.weight", VOCAB, H)
        self.norms("model", norm=H)

    def layer(self, place: str) -> None:
        self.norms(place, input_layernorm=H, post_attention_layernorm=H)

    def moe(self, place: str, names: tuple[str, str, str] = HF, correction: str = "") -> None:
        self.add(SMALL, f"{place}.gate.weight", E, H)
        if correction:
            self.add(SMALL, f"{place}.{correction}", E, dtype="F32")
        for expert in range(E):
            self.mlp("experts", f"{place}.experts.{expert}", I, names)


# Attention


def grouped(
    held: Headers, place: str, biases: str = "", norms: str = "", gate: bool = False
) -> None:
    """`biases` of projections by letter, `norms` over each head or over all of them (`full`)."""
    rows = {"q": HEADS * DIM * (2 if gate else 1), "k": KV * DIM, "v": KV * DIM, "o": H}
    for name, size in rows.items():
        held.matrix("attention", f"{place}.{name}_proj", size, HEADS * DIM if name == "o" else H)
    held.heads += 0 if held.line else 2 * KV * DIM * H * 2
    for name in biases:
        held.add("attention", f"{place}.{name}_proj.bias", rows[name])
    if norms:
        full = norms == "full"
        held.norms(place, q_norm=HEADS * DIM if full else DIM, k_norm=KV * DIM if full else DIM)


def latent(held: Headers, place: str, query: bool = True, index: bool = False) -> None:
    if query:
        held.matrix("attention", f"{place}.q_a_proj", QUERY, H, whole=True)
        held.norms(place, q_a_layernorm=QUERY)
    name, columns = ("q_b_proj", QUERY) if query else ("q_proj", H)
    held.matrix("attention", f"{place}.{name}", HEADS * (NOPE + ROPE), columns)
    held.matrix("attention", f"{place}.kv_a_proj_with_mqa", RANK + ROPE, H, whole=True)
    held.norms(place, kv_a_layernorm=RANK)
    held.matrix("attention", f"{place}.kv_b_proj", HEADS * (NOPE + VALUE), RANK)
    held.matrix("attention", f"{place}.o_proj", H, HEADS * VALUE)
    if index:
        held.matrix("attention", f"{place}.indexer.wq_b", INDEX_HEADS * INDEX, QUERY, whole=True)
        held.matrix("attention", f"{place}.indexer.wk", INDEX, H, whole=True)
        held.add("attention", f"{place}.indexer.weights_proj.weight", INDEX_HEADS, H)
        held.whole += 0 if held.line else 2 * INDEX_HEADS * H
        held.add(SMALL, f"{place}.indexer.k_norm.weight", INDEX)
        held.add(SMALL, f"{place}.indexer.k_norm.bias", INDEX)


def delta(held: Headers, place: str) -> None:
    value, key = VALUE_HEADS * VALUE_DIM, KEY_HEADS * KEY_DIM
    held.matrix("attention", f"{place}.in_proj_qkvz", 2 * key + 2 * value, H)
    held.matrix("attention", f"{place}.in_proj_ba", 2 * VALUE_HEADS, H)
    held.matrix("attention", f"{place}.out_proj", H, value)
    held.add("attention", f"{place}.conv1d.weight", 2 * key + value, 1, KERNEL)
    held.add("attention", f"{place}.A_log", VALUE_HEADS)
    held.add("attention", f"{place}.dt_bias", VALUE_HEADS)
    held.norms(place, norm=VALUE_DIM)
