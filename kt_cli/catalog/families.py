"""What the families of models call things, and how their layers differ. Data, and one lookup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from kt_cli.catalog.config import Config

AttentionStyle = Literal["grouped", "latent", "compressed"]
Norms = Literal["none", "head", "full"]
SharedStyle = Literal["none", "count", "width", "one"]


@dataclass(frozen=True, slots=True)
class Family:
    """Defaults are those of a plain Mixtral-like decoder."""

    width: str = "moe_intermediate_size"
    """Key of an expert's width."""
    dense: str = "intermediate_size"
    """Key of the dense MLP's width, in layers without experts."""
    shared: SharedStyle = "none"
    """Shared experts: a number of expert widths, a width of their own, or always one."""
    shared_gate: bool = False
    shared_width: str = "moe_intermediate_size"
    router: Literal["plain", "bias", "correction", "hashed"] = "plain"
    attention: AttentionStyle = "grouped"
    qk_norm: Norms = "none"
    qkv_bias: bool = False
    """The biases do not depend on a key."""
    bias_key: str = ""
    output_bias: bool = False
    """The output projection has a bias wherever the others have."""
    output_gate: bool = False
    """The query projection is twice as wide: half of it gates the output."""
    sinks: bool = False
    expert_bias: bool = False
    activation: str = ""
    """Where the configuration's `hidden_act` is not what the experts compute."""
    linear: Literal["", "joined", "apart"] = ""
    """Gated delta-rule layers, with their input projections in two tensors or in four."""
    draft: bool = False
    """`num_nextn_predict_layers` more layers follow the last one."""


_DEEPSEEK = Family(shared="count", attention="latent", router="correction", draft=True)
_QWEN3 = Family(qk_norm="head", bias_key="attention_bias", output_bias=True)
_QWEN_NEXT = Family(
    shared="width",
    shared_gate=True,
    shared_width="shared_expert_intermediate_size",
    qk_norm="head",
    output_gate=True,
    bias_key="attention_bias",
    output_bias=True,
    linear="joined",
)
_LLAMA4 = Family(
    width="intermediate_size",
    dense="intermediate_size_mlp",
    shared="one",
    shared_width="intermediate_size",
    bias_key="attention_bias",
    output_bias=True,
)

FAMILIES: Mapping[str, Family] = {
    "mixtral": Family(width="intermediate_size"),
    "olmoe": Family(
        width="intermediate_size", qk_norm="full", bias_key="attention_bias", output_bias=True
    ),
    "qwen2_moe": Family(
        shared="width",
        shared_gate=True,
        shared_width="shared_expert_intermediate_size",
        qkv_bias=True,
    ),
    "qwen3_moe": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_next": _QWEN_NEXT,
    "qwen3_5_moe": replace(_QWEN_NEXT, linear="apart"),
    "deepseek_v2": replace(_DEEPSEEK, router="plain", draft=False),
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": _DEEPSEEK,
    "glm4_moe": Family(
        shared="count",
        router="correction",
        qk_norm="head",
        bias_key="attention_bias",
        draft=True,
    ),
    "minimax_m2": Family(width="intermediate_size", router="correction", qk_norm="full"),
    "minimax_m3_vl": Family(
        width="intermediate_size",
        dense="dense_intermediate_size",
        shared="count",
        shared_width="shared_intermediate_size",
        router="correction",
        qk_norm="head",
        activation="swiglu_oai",
    ),
    "llama4": _LLAMA4,
    "smallthinker": Family(width="moe_ffn_hidden_size", activation="relu"),
    "gpt_oss": Family(
        width="intermediate_size",
        router="bias",
        bias_key="attention_bias",
        output_bias=True,
        sinks=True,
        expert_bias=True,
        activation="swiglu_oai",
    ),
    "deepseek_v4": Family(
        shared="count", attention="compressed", router="hashed", activation="silu_clamped"
    ),
}
# Families whose checkpoints say another `model_type` than the one they are known by here.
SPELLINGS: Mapping[str, str] = {
    "kimi_k25": "kimi_k2",
    "kimi_vl": "kimi_k2",
    "llama4_text": "llama4",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "minimax_m3": "minimax_m3_vl",
    "minimax_m3_vl_text": "minimax_m3_vl",
}


def family_name(config: Config) -> str:
    """The name in FAMILIES, else the `model_type` as it is."""
    if config.architecture.startswith("MiniMaxM2"):  # some call themselves `minimax`, as M1 does
        return "minimax_m2"
    return SPELLINGS.get(config.model_type, config.model_type)


def family_of(config: Config) -> Family | None:
    return FAMILIES.get(family_name(config))
