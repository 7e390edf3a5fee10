"""A tiny checkpoint of each family: its configuration, and its tensors as they are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.family_layers import (
    DENSE,
    DIM,
    HEADS,
    INDEX,
    INDEX_HEADS,
    KERNEL,
    KEY_DIM,
    KEY_HEADS,
    KV,
    MIXTRAL,
    NOPE,
    QUERY,
    RANK,
    ROPE,
    SHARED,
    SMALL,
    VALUE,
    VALUE_DIM,
    VALUE_HEADS,
    VOCAB,
    E,
    H,
    Headers,
    I,
    delta,
    grouped,
    latent,
)

BASE: Mapping[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "num_key_value_heads": KV, "head_dim": DIM, "max_position_embeddings": 4096,
    "num_experts_per_tok": 2, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
NARROW = {"moe_intermediate_size": I, "intermediate_size": DENSE}
LATENT = {
    **NARROW, "num_key_value_heads": HEADS, "n_routed_experts": E, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "kv_lora_rank": RANK, "q_lora_rank": QUERY,
    "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE, "v_head_dim": VALUE,
}  # fmt: skip
CORRECTION = "gate.e_score_correction_bias"


def mixtral(held: Headers) -> None:
    for layer in ("model.layers.0", "model.layers.1"):
        held.layer(layer)
        grouped(held, f"{layer}.self_attn")
        held.moe(f"{layer}.block_sparse_moe", MIXTRAL)


def qwen2_moe(held: Headers) -> None:
    for number, layer in enumerate(("model.layers.0", "model.layers.1")):
        held.layer(layer)
        grouped(held, f"{layer}.self_attn", biases="qkv")
        if not number:
            held.mlp("dense MLP", f"{layer}.mlp", DENSE)
            continue
        held.moe(f"{layer}.mlp")
        _gated_share(held, f"{layer}.mlp")


def _gated_share(held: Headers, place: str) -> None:
    held.mlp("shared experts", f"{place}.shared_expert", SHARED)
    held.add("shared experts", f"{place}.shared_expert_gate.weight", 1, H)


def _deepseek_layer(held: Headers, number: int, correction: str, attention: Any) -> None:
    layer = f"model.layers.{number}"
    held.layer(layer)
    attention(held, f"{layer}.self_attn")
    if not number:
        held.mlp("dense MLP", f"{layer}.mlp", DENSE)
        return
    held.moe(f"{layer}.mlp", correction=correction)
    held.mlp("shared experts", f"{layer}.mlp.shared_experts", 2 * I)


def deepseek_v2(held: Headers) -> None:
    for number in range(2):
        _deepseek_layer(held, number, "", lambda h, p: latent(h, p, query=False))


def deepseek_v3(held: Headers, attention: Any = latent) -> None:
    for number in range(2):
        _deepseek_layer(held, number, CORRECTION, attention)
    held.line = "draft"
    _deepseek_layer(held, 2, CORRECTION, attention)
    held.norms("model.layers.2", enorm=H, hnorm=H)
    held.add("draft", "model.layers.2.eh_proj.weight", H, 2 * H)
    held.add("draft", "model.layers.2.embed_tokens.weight", VOCAB, H)
    held.add("draft", "model.layers.2.shared_head.head.weight", VOCAB, H)
    held.norms("model.layers.2.shared_head", norm=H)
    held.line = ""


def deepseek_v32(held: Headers) -> None:
    deepseek_v3(held, lambda h, p: latent(h, p, index=True))


def glm4_moe(held: Headers) -> None:
    deepseek_v3(held, lambda h, p: grouped(h, p, biases="qkv", norms="head"))


def minimax_m2(held: Headers) -> None:
    for layer in ("model.layers.0", "model.layers.1"):
        held.layer(layer)
        grouped(held, f"{layer}.self_attn", norms="full")
        held.moe(f"{layer}.block_sparse_moe", MIXTRAL, correction="e_score_correction_bias")


def gpt_oss(held: Headers) -> None:
    """Its attention is never quantised; its experts are in MXFP4, or in bf16 where they are not."""
    packed, held.fp8 = held.fp8, False
    for layer in ("model.layers.0", "model.layers.1"):
        held.layer(layer)
        grouped(held, f"{layer}.self_attn", biases="qkvo")
        held.add("attention", f"{layer}.self_attn.sinks", HEADS)
        held.add(SMALL, f"{layer}.mlp.router.weight", E, H)
        held.add(SMALL, f"{layer}.mlp.router.bias", E)
        for name, rows, columns in (("gate_up_proj", 2 * I, H), ("down_proj", H, I)):
            place = f"{layer}.mlp.experts.{name}"
            held.add("experts", f"{place}_bias", E, rows)
            if packed:
                blocks = (E, rows, columns // 32)
                held.add("experts", f"{place}_blocks", *blocks, 16, dtype="U8", weights=2)
                held.add("experts", f"{place}_scales", *blocks, dtype="U8", weights=0)
            else:
                held.add("experts", place, E, columns, rows)


def qwen3_next(held: Headers) -> None:
    for number in range(4):
        layer = f"model.layers.{number}"
        held.layer(layer)
        if number < 3:
            delta(held, f"{layer}.linear_attn")
        else:
            grouped(held, f"{layer}.self_attn", norms="head", gate=True)
        held.moe(f"{layer}.mlp")
        _gated_share(held, f"{layer}.mlp")
    held.line = "draft"
    held.layer("mtp.layers.0")
    grouped(held, "mtp.layers.0.self_attn", norms="head", gate=True)
    held.moe("mtp.layers.0.mlp")
    _gated_share(held, "mtp.layers.0.mlp")
    held.add("draft", "mtp.fc.weight", H, 2 * H)
    held.norms("mtp", norm=H, pre_fc_norm_hidden=H, pre_fc_norm_embedding=H)
    held.line = ""


Fill = Callable[[Headers], None]
V3 = {**LATENT, "num_nextn_predict_layers": 1}
FAMILIES: Mapping[str, tuple[str, Fill, Mapping[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", mixtral, {"num_local_experts": E, "intermediate_size": I}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        qwen2_moe,
        {**NARROW, "num_experts": E, "shared_expert_intermediate_size": SHARED,
         "decoder_sparse_step": 1, "mlp_only_layers": [0]},
    ),
    "deepseek_v2": ("DeepseekV2ForCausalLM", deepseek_v2, {**LATENT, "q_lora_rank": None}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", deepseek_v3, V3),
    "deepseek_v32": (
        "DeepseekV32ForCausalLM",
        deepseek_v32,
        {**V3, "index_n_heads": INDEX_HEADS, "index_head_dim": INDEX, "index_topk": 8},
    ),
    "glm4_moe": (
        "Glm4MoeForCausalLM",
        glm4_moe,
        {**NARROW, "n_routed_experts": E, "n_shared_experts": 2, "first_k_dense_replace": 1,
         "use_qk_norm": True, "attention_bias": True, "num_nextn_predict_layers": 1},
    ),
    "minimax_m2": (
        "MiniMaxM2ForCausalLM",
        minimax_m2,
        {"num_local_experts": E, "intermediate_size": I, "use_qk_norm": True},
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        gpt_oss,
        {"num_local_experts": E, "intermediate_size": I, "sliding_window": 128,
         "attention_bias": True},
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        qwen3_next,
        {**NARROW, "num_hidden_layers": 4, "num_experts": E, "full_attention_interval": 4,
         "shared_expert_intermediate_size": SHARED, "decoder_sparse_step": 1, "mlp_only_layers": [],
         "linear_num_key_heads": KEY_HEADS, "linear_num_value_heads": VALUE_HEADS,
         "linear_key_head_dim": KEY_DIM, "linear_value_head_dim": VALUE_DIM,
         "linear_conv_kernel_dim": KERNEL},
    ),
}  # fmt: skip


MXFP4 = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
    ],
}  # fmt: skip


def made(name: str, quantised: bool) -> tuple[dict[str, Any], Headers]:
    """Configuration and headers: all in bf16, or as it is published in few bits."""
    architecture, fill, own = FAMILIES[name]
    config = {**BASE, **own, "model_type": name, "architectures": [architecture]}
    held = Headers(fp8=quantised)
    held.outer()
    fill(held)
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    how = MXFP4 if name == "gpt_oss" else fp8
    return (config | {"quantization_config": how} if quantised else config), held
