"""GGUF files of two families: every tensor with the line it belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.family_layers import (
    DIM,
    EMBEDDING,
    HEADS,
    KV,
    NOPE,
    RANK,
    ROPE,
    SMALL,
    VALUE,
    VOCAB,
    E,
    H,
    Headers,
)

KINDS = ("qwen3moe", "deepseek2")
TYPES = {"F32": (0, 1, 4), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144)}
"""Number, weights and bytes of a block."""


def gguf(kind: str, layers: int) -> tuple[dict[str, Any], dict[str, Any], Headers]:
    """Metadata and tensors as llama.cpp's conversion writes them, the fastest dimension first."""
    held, tensors = Headers(), {}

    def add(line: str, name: str, how: str, *dims: int) -> None:
        number, weights, size = TYPES[how]
        tensors[name if name.endswith(".bias") else f"{name}.weight"] = (dims, number)
        held.bytes[line] += math.prod(dims) // weights * size
        held.parameters[line] += math.prod(dims)

    def mlp(line: str, place: str, width: int, suffix: str, *count: int) -> None:
        for name, dims in (("gate", (H, width)), ("up", (H, width)), ("down", (width, H))):
            add(line, f"{place}.ffn_{name}{suffix}", "Q4_K", *dims, *count)

    add(EMBEDDING, "token_embd", "Q4_K", H, VOCAB)
    add(EMBEDDING, "output", "Q8_0", H, VOCAB)
    add(SMALL, "output_norm", "F32", H)
    for layer in range(layers):
        place, deep = f"blk.{layer}", kind == "deepseek2"
        add(SMALL, f"{place}.attn_norm", "F32", H)
        add(SMALL, f"{place}.ffn_norm", "F32", H)
        for name, how, *dims in LATENT_GGUF if deep else GROUPED_GGUF:
            add(SMALL if how == "F32" else "attention", f"{place}.{name}", how, *dims)
        if deep and not layer:
            mlp("dense MLP", place, 512, "")
            continue
        add(SMALL, f"{place}.ffn_gate_inp", "F32", H, E)
        mlp("experts", place, 256, "_exps", E)
        if deep:
            mlp("shared experts", place, 256, "_shexp")
            add(SMALL, f"{place}.exp_probs_b.bias", "F32", E)
    return metadata(kind, layers), tensors, held


def metadata(kind: str, layers: int) -> dict[str, Any]:
    own = {
        "block_count": layers, "embedding_length": H, "context_length": 4096,
        "attention.head_count": HEADS, "attention.head_count_kv": KV, "expert_count": E,
        "expert_used_count": 2, "attention.key_length": DIM, "attention.value_length": DIM,
    }  # fmt: skip
    if kind == "deepseek2":
        own |= {
            "attention.head_count_kv": 1, "attention.kv_lora_rank": RANK,
            "attention.q_lora_rank": 256, "attention.key_length": RANK + ROPE,
            "attention.value_length": RANK, "attention.key_length_mla": NOPE + ROPE,
            "attention.value_length_mla": VALUE, "rope.dimension_count": ROPE,
            "expert_shared_count": 1, "leading_dense_block_count": 1,
        }  # fmt: skip
    named = {f"{kind}.{key}": value for key, value in own.items()}
    return {"general.architecture": kind, **named, "tokenizer.ggml.tokens": ["a"] * VOCAB}


GROUPED_GGUF: Sequence[tuple[Any, ...]] = (
    ("attn_q", "Q4_K", H, HEADS * DIM), ("attn_k", "Q4_K", H, KV * DIM),
    ("attn_v", "Q8_0", H, KV * DIM), ("attn_output", "Q4_K", HEADS * DIM, H),
    ("attn_q_norm", "F32", DIM), ("attn_k_norm", "F32", DIM),
)  # fmt: skip
LATENT_GGUF: Sequence[tuple[Any, ...]] = (
    ("attn_q_a", "Q4_K", H, 256), ("attn_q_b", "Q4_K", 256, HEADS * (NOPE + ROPE)),
    ("attn_kv_a_mqa", "Q8_0", H, RANK + ROPE), ("attn_k_b", "Q8_0", NOPE, RANK, HEADS),
    ("attn_v_b", "Q8_0", RANK, VALUE, HEADS), ("attn_output", "Q8_0", HEADS * VALUE, H),
    ("attn_q_a_norm", "F32", 256), ("attn_kv_a_norm", "F32", RANK),
)  # fmt: skip
