"""Bytes of the caches on each GPU and in RAM, computed from the shapes of a family alone."""

from __future__ import annotations

from math import ceil
from typing import Any

from kt_cli import catalog
from kt_cli.core.units import DTYPE_BYTES
from tests.catalog.test_sums_of_families import differences, items, planned
from tests.family_headers import FAMILIES, made
from tests.family_layers import (
    DIM,
    KERNEL,
    KEY_DIM,
    KEY_HEADS,
    KV,
    RANK,
    ROPE,
    VALUE_DIM,
    VALUE_HEADS,
    H,
)

LATENT = ("deepseek_v2", "deepseek_v3", "deepseek_v32")
INDEX_KEY = 128 + 4
"""An fp8 key of 128 values and its scale, for every token, layer and GPU."""
STATE = (
    4 * VALUE_HEADS * KEY_DIM * VALUE_DIM
    + 2 * (2 * KEY_HEADS * KEY_DIM + VALUE_HEADS * VALUE_DIM) * (KERNEL - 1)
)  # fmt: skip


def layer_bytes(name: str, width: float, tp: int) -> float:
    """Of a token in a layer that keeps every token: latents are whole on every GPU, heads are
    split, and there is no less than one of them."""
    if name in LATENT:
        return (RANK + ROPE) * width + (INDEX_KEY if name == "deepseek_v32" else 0)
    return max(1, KV // tp) * 2 * DIM * width


def of_sglang(name: str, tokens: int, requests: int, width: float, tp: int) -> dict[str, int]:
    each = layer_bytes(name, width, tp)
    layers = {"qwen3_next": 1, "gpt_oss": 1.8}.get(name, 2)
    """gpt-oss: one layer of two has a window, whose pool holds 0.8 of the tokens."""
    found = {"KV cache": ceil(tokens * layers * each), "states": 0}
    if name == "qwen3_next":
        found["states"] = (3 * requests + 1) * 3 * STATE // tp
    return found


def of_embedded(name: str, tokens: int, requests: int, width: float) -> dict[str, int]:
    each, layers = layer_bytes(name, width, 1), 1 if name in ("qwen3_next", "gpt_oss") else 2
    size = tokens * layers * each
    if name == "gpt_oss":
        size += min(tokens, 128 * requests) * each
    return {"KV cache": int(size + (3 * STATE * requests if name == "qwen3_next" else 0))}


def test_caches_of_every_family_are_computed_from_its_shapes() -> None:
    wrong: list[str] = []
    for name in FAMILIES:
        config, _ = made(name, False)
        model = catalog.from_config(config, name)
        for tp in (1, 2, 4):
            plan = planned(model, "sglang", gpus=tp, tp=tp, max_running_requests=3)
            expected = of_sglang(name, int(plan.value("kv_tokens")), 3, 2, tp)
            for rank in range(tp):
                found = items(plan, f"GPU{rank}")
                wrong += differences(f"{name} GPU{rank} of {tp}", found, expected)
        plan = planned(model, "embedded", max_running_requests=3)
        width = DTYPE_BYTES[str(plan.value("kv_cache_dtype"))]
        expected = of_embedded(name, int(plan.value("kv_tokens")), 3, width)
        wrong += differences(f"{name} embedded", items(plan, "RAM"), expected)
    assert not wrong, "\n".join(wrong)


def test_sparse_latent_attention_keeps_656_bytes_a_token_in_fp8() -> None:
    """512 fp8 latents with 4 scales in fp32, 64 rotary values in bf16: on every GPU the same."""
    config = made("deepseek_v32", False)[0] | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    wrong: list[str] = []
    for tp in (1, 2, 4):
        for kind, each in {"fp8": 656, "bf16": 1152}.items():
            model = catalog.from_config(config, "m")
            plan = planned(model, "sglang", gpus=tp, tp=tp, kv_cache_dtype=kind)
            size = int(plan.value("kv_tokens")) * 2 * (each + INDEX_KEY)
            for rank in range(tp):
                found = items(plan, f"GPU{rank}")
                wrong += differences(f"{kind} GPU{rank} of {tp}", found, {"KV cache": size})
    assert not wrong, "\n".join(wrong)


V4: dict[str, Any] = {
    **made("deepseek_v3", False)[0], "model_type": "deepseek_v4", "num_hidden_layers": 5,
    "architectures": ["DeepseekV4ForCausalLM"], "head_dim": 512, "num_key_value_heads": 1,
    "qk_rope_head_dim": 64, "q_lora_rank": 160, "o_groups": 2, "o_lora_rank": 64,
    "index_n_heads": 2, "index_head_dim": 128, "sliding_window": 128, "hc_mult": 4,
    "compress_ratios": [0, 4, 128, 4, 128], "num_hash_layers": 1,
    "num_nextn_predict_layers": 0, "first_k_dense_replace": 0,
}  # fmt: skip
V4.pop("kv_lora_rank")


def test_compressed_attention_has_its_pools_whole_on_every_gpu() -> None:
    """An entry is 448 fp8 values, 64 rotary ones in bf16 and 8 bytes of scales.

    Windows keep a share of the tokens in every layer. A page of 128 tokens has 8 compressor states
    of 8192 B, and as many of 2048 B for its index, where four tokens share an entry; 128 states of
    4096 B where 128 tokens do.
    """
    wrong: list[str] = []
    for tp in (1, 2):
        plan = planned(catalog.from_config(V4, "m"), "sglang", gpus=tp, tp=tp)
        tokens, entry = int(plan.value("kv_tokens")), 448 + 2 * 64 + 8
        share = min(0.9, max(0.1, 2.1 * int(plan.value("chunked_prefill_size")) / tokens))
        fourth = (entry + INDEX_KEY) / 4 + share * 8 / 128 * (8192 + 2048)
        hundredth = entry / 128 + share * 4096
        size = tokens * (5 * share * entry + 2 * fourth + 2 * hundredth)
        for rank in range(tp):
            found = items(plan, f"GPU{rank}")["KV cache"]
            if abs(found - size) > 1:
                wrong.append(f"GPU{rank} of {tp}: {found}, not {size}")
    assert not wrong, "\n".join(wrong)


def test_compressed_attention_splits_its_heads_alone() -> None:
    """Whole on every GPU: both down-projections, compressors of keys and gates, twice as wide where
    four tokens share an entry, and the indexer with a compressor of its own."""
    model = catalog.from_config(V4, "m")
    whole = 5 * (160 + 512) * H
    whole += 2 * (2 * 2 * 512 * H + 2 * 2 * 128 * H + 2 * 128 * 160 + 2 * H)
    whole += 2 * 2 * 512 * H
    for tp in (1, 2):
        plan = planned(model, "sglang", gpus=tp, tp=tp)
        split = model.bytes["attention"] - 2 * whole
        assert items(plan, "GPU0")["attention"] == 2 * whole + -(-split // tp)
