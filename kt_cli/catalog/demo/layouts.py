"""The demo model in the layouts of several families: configuration and tensors of one layer.

`mixtral` and `qwen2_moe` compute exactly what the dense model does. `padded` widens the hidden
state to a multiple of 256 with zeros, for formats that need it; its norm gains are rounded.
`qwen3_moe` neutralises the query and key norms (see `normed`) and is exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kt_cli.catalog.demo import normed
from kt_cli.catalog.demo.dense import EMBEDDING, FINAL_NORM, Dense
from kt_cli.catalog.demo.manifest import LayoutName
from kt_cli.catalog.demo.recipe import Split, experts, router
from kt_cli.weights.floats import Bits, Floats, float32_to_bf16

Named: TypeAlias = Iterator[tuple[str, Bits]]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
PADDED_HIDDEN = 1024
SHARED_WIDTH = 64


@dataclass(frozen=True, slots=True)
class Layout:
    split: Split
    config: Callable[[Dense, Split], dict[str, Any]]
    layer: Callable[[Dense, Split, int], Named]
    outer: Callable[[Dense], Named]


def _base(dense: Dense) -> dict[str, Any]:
    ids = dense.gguf.metadata
    return {
        "vocab_size": dense.vocab,
        "hidden_size": dense.hidden,
        "num_hidden_layers": dense.layers,
        "num_attention_heads": dense.heads,
        "num_key_value_heads": dense.kv_heads,
        "head_dim": dense.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": dense.context,
        "rms_norm_eps": dense.eps,
        "rope_theta": dense.theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids["tokenizer.ggml.bos_token_id"],
        "eos_token_id": ids["tokenizer.ggml.eos_token_id"],
        "pad_token_id": ids["tokenizer.ggml.padding_token_id"],
    }


def _mixtral_config(dense: Dense, split: Split) -> dict[str, Any]:
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        **_base(dense),
        "intermediate_size": dense.intermediate // split.slices,
        "num_local_experts": split.experts,
        "num_experts_per_tok": split.slices,
        "sliding_window": None,
        "output_router_logits": False,
    }


def _padded_config(dense: Dense, split: Split) -> dict[str, Any]:
    return {
        **_mixtral_config(dense, split),
        "hidden_size": PADDED_HIDDEN,
        "rms_norm_eps": dense.eps * dense.hidden / PADDED_HIDDEN,
    }


def _qwen2_moe_config(dense: Dense, split: Split) -> dict[str, Any]:
    width = dense.intermediate // split.slices
    return {
        "architectures": ["Qwen2MoeForCausalLM"],
        "model_type": "qwen2_moe",
        **_base(dense),
        "intermediate_size": dense.intermediate,
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": SHARED_WIDTH,
        "num_experts": split.experts,
        "num_experts_per_tok": split.slices,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }


def _qwen3_moe_config(dense: Dense, split: Split) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        **_base(dense),
        "head_dim": normed.WIDE,
        "attention_bias": True,
        "intermediate_size": dense.intermediate,
        "moe_intermediate_size": dense.intermediate // split.slices,
        "num_experts": split.experts,
        "num_experts_per_tok": split.slices,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": False,
    }


def _outer(dense: Dense) -> Named:
    for name, tensor in dense.outer().items():
        yield name, float32_to_bf16(tensor)


def _padded_outer(dense: Dense) -> Named:
    tensors = dense.outer()
    yield EMBEDDING, float32_to_bf16(_wide(tensors[EMBEDDING], 1))
    yield FINAL_NORM, float32_to_bf16(_gain(tensors[FINAL_NORM]))


def _mixtral_layer(dense: Dense, split: Split, index: int) -> Named:
    layer = dense.layer(index)
    yield from _attention(layer)
    yield from _mixtral_moe(layer, split, index)


def _padded_layer(dense: Dense, split: Split, index: int) -> Named:
    layer = dense.layer(index)
    for name in NORMS:
        layer[name] = _gain(layer[name])
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        layer[name] = _wide(layer[name], 1)
    layer["self_attn.o_proj"] = _wide(layer["self_attn.o_proj"], 0)
    for name in ("mlp.gate_proj", "mlp.up_proj"):
        layer[name] = _wide(layer[name], 1)
    layer["mlp.down_proj"] = _wide(layer["mlp.down_proj"], 0)
    yield from _attention(layer)
    yield from _mixtral_moe(layer, split, index)


def _qwen2_moe_layer(dense: Dense, split: Split, index: int) -> Named:
    layer = dense.layer(index)
    yield from _attention(layer)
    for name in ATTENTION[:3]:
        yield f"self_attn.{name}.bias", _zeros(len(layer[f"self_attn.{name}"]))
    yield "mlp.gate.weight", router(layer, split, index)
    yield "mlp.shared_expert_gate.weight", _zeros(1, dense.hidden)
    yield "mlp.shared_expert.gate_proj.weight", _zeros(SHARED_WIDTH, dense.hidden)
    yield "mlp.shared_expert.up_proj.weight", _zeros(SHARED_WIDTH, dense.hidden)
    yield "mlp.shared_expert.down_proj.weight", _zeros(dense.hidden, SHARED_WIDTH)
    yield from _qwen_experts(layer, split)


def _qwen3_moe_layer(dense: Dense, split: Split, index: int) -> Named:
    layer = dense.layer(index)
    for name in NORMS:
        yield f"{name}.weight", float32_to_bf16(layer[name])
    yield from normed.attention(layer, dense.heads, dense.kv_heads)
    yield "mlp.gate.weight", router(layer, split, index)
    yield from _qwen_experts(layer, split)


def _qwen_experts(layer: Mapping[str, Floats], split: Split) -> Named:
    for number, expert in enumerate(experts(layer, split)):
        yield f"mlp.experts.{number}.gate_proj.weight", expert.gate
        yield f"mlp.experts.{number}.up_proj.weight", expert.up
        yield f"mlp.experts.{number}.down_proj.weight", expert.down


def _attention(layer: Mapping[str, Floats]) -> Named:
    for name in (*NORMS, *(f"self_attn.{part}" for part in ATTENTION)):
        yield f"{name}.weight", float32_to_bf16(layer[name])


def _mixtral_moe(layer: Mapping[str, Floats], split: Split, index: int) -> Named:
    yield "block_sparse_moe.gate.weight", router(layer, split, index)
    for number, expert in enumerate(experts(layer, split)):
        yield f"block_sparse_moe.experts.{number}.w1.weight", expert.gate
        yield f"block_sparse_moe.experts.{number}.w2.weight", expert.down
        yield f"block_sparse_moe.experts.{number}.w3.weight", expert.up


def _wide(tensor: Floats, axis: int) -> Floats:
    """The tensor with its hidden axis filled up with zeros."""
    extra = [(0, 0)] * tensor.ndim
    extra[axis] = (0, PADDED_HIDDEN - tensor.shape[axis])
    return np.pad(tensor, extra)


def _gain(gain: Floats) -> Floats:
    """Zeros lower the mean square that the norm divides by; the gain makes up for it."""
    return _wide(gain * np.float32(np.sqrt(len(gain) / PADDED_HIDDEN)), 0)


def _zeros(*shape: int) -> Bits:
    return np.zeros(shape, np.uint16)


LAYOUTS: Mapping[LayoutName, Layout] = {
    "mixtral": Layout(Split(2, 4), _mixtral_config, _mixtral_layer, _outer),
    "qwen2_moe": Layout(Split(4, 4), _qwen2_moe_config, _qwen2_moe_layer, _outer),
    "qwen3_moe": Layout(Split(2, 4), _qwen3_moe_config, _qwen3_moe_layer, _outer),
    "padded": Layout(Split(2, 2), _padded_config, _padded_layer, _padded_outer),
}
