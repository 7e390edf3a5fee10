"""Tiny checkpoints: of transformers' own classes, or headers alone with room for their tensors."""

import json
from pathlib import Path

DTYPE_BYTES = {
    "BF16": 2,
    "F32": 4,
    "I32": 4,
    "I64": 8,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "U8": 1,
    "I8": 1,
}

BASE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    **{key: value for key, value in BASE.items() if key != "head_dim"},
    **ROUTED,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 24,
    "q_lora_rank": 48,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 20,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 0,
}
INDEX = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
    "linear_conv_kernel_dim": 4,
}
NEXT = {**BASE, **ROUTED, **DELTA, "num_experts": 8, "shared_expert_intermediate_size": 48}
FAMILIES = {
    "mixtral": {**BASE, "num_local_experts": 8},
    "qwen2_moe": {**BASE, **ROUTED, "num_experts": 8, "shared_expert_intermediate_size": 48},
    "qwen3_moe": {**BASE, **ROUTED, "num_experts": 8, "mlp_only_layers": [0]},
    "qwen3_next": {**NEXT, "decoder_sparse_step": 2},
    "qwen3_5_moe_text": NEXT,
    "olmoe": {**BASE, "num_experts": 8, "num_experts_per_tok": 2},
    "deepseek_v2": {**LATENT, "q_lora_rank": None},
    "deepseek_v3": LATENT,
    "deepseek_v32": {**LATENT, **INDEX},
    "glm4_moe": {
        **BASE,
        **ROUTED,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "use_qk_norm": True,
        "attention_bias": True,
        "num_nextn_predict_layers": 0,
    },
    "glm_moe_dsa": {**LATENT, **INDEX},
    "minimax_m2": {**BASE, "num_local_experts": 8, "num_experts_per_tok": 2},
    "minimax_m3_vl_text": {
        **BASE,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "dense_intermediate_size": 80,
        "shared_intermediate_size": 40,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
    },
    "gpt_oss": {**BASE, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 16},
    "llama4_text": {
        **BASE,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
        "intermediate_size": 32,
    },
    "deepseek_v4": {
        **BASE,
        **ROUTED,
        "num_key_value_heads": 1,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "q_lora_rank": 48,
        "o_groups": 2,
        "o_lora_rank": 24,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "num_nextn_predict_layers": 0,
    },
}


def save_tiny(kind: str, folder: Path) -> Path:
    """A checkpoint of random weights in bf16, as transformers saves it."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**FAMILIES[kind])
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def write_headers(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file whose data is a hole of the right size."""
    entries, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = DTYPE_BYTES[dtype]
        for n in shape:
            size *= n
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)


def write_checkpoint(folder: Path, config: dict, tensors: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_headers(folder / "model.safetensors", tensors)
    return folder


def mixtral_headers(folder: Path) -> Path:
    """One layer of two experts, all holes."""
    config = {
        **BASE, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
        "num_hidden_layers": 1, "num_local_experts": 2, "num_experts_per_tok": 1,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    layer = "model.layers.0"
    shapes = {
        "model.embed_tokens.weight": (96, 64),
        "lm_head.weight": (96, 64),
        "model.norm.weight": (64,),
        f"{layer}.input_layernorm.weight": (64,),
        f"{layer}.post_attention_layernorm.weight": (64,),
        f"{layer}.self_attn.q_proj.weight": (64, 64),
        f"{layer}.self_attn.k_proj.weight": (32, 64),
        f"{layer}.self_attn.v_proj.weight": (32, 64),
        f"{layer}.self_attn.o_proj.weight": (64, 64),
        f"{layer}.block_sparse_moe.gate.weight": (2, 64),
    }
    for expert in range(2):
        head = f"{layer}.block_sparse_moe.experts.{expert}"
        shapes |= {f"{head}.w{i}.weight": (64, 96) if i == 2 else (96, 64) for i in (1, 2, 3)}
    return write_checkpoint(folder, config, {name: ("BF16", s) for name, s in shapes.items()})
