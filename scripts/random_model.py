"""Writes a checkpoint with random weights in the shape of a known family, for measurements.

usage: python scripts/random_model.py SHAPE FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kt_cli.weights.headers import TensorInfo
from kt_cli.weights.writer import write_checkpoint

Bits = npt.NDArray[np.uint16]
Config = Mapping[str, Any]

COMMON: Config = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 256,
    "eos_token_id": 258,
}
QWEN: Config = {
    **COMMON,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
SMALL: Config = {
    **QWEN,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "moe_intermediate_size": 512,
    "intermediate_size": 2048,
    "vocab_size": 32768,
}
QWEN_30B: Config = {
    **QWEN,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "moe_intermediate_size": 768,
    "intermediate_size": 6144,
    "vocab_size": 65536,
}
DEEPSEEK: Config = {
    **COMMON,
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1408,
    "intermediate_size": 8192,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 0,
    "attention_bias": False,
    "vocab_size": 65536,
}
SHAPES: Mapping[str, Config] = {
    "qwen-1g": {**SMALL, "num_hidden_layers": 4},
    "qwen-3g": {**QWEN_30B, "num_hidden_layers": 2},
    "qwen-7g": {**QWEN_30B, "num_hidden_layers": 6},
    "qwen-18g": {**QWEN_30B, "num_hidden_layers": 14},
    "deepseek-3g": {**DEEPSEEK, "num_hidden_layers": 3},
    "deepseek-8g": {**DEEPSEEK, "num_hidden_layers": 8},
}
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def tensors(config: Config) -> Shapes:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    attention = latent_attention if "kv_lora_rank" in config else grouped_attention
    yield "model.embed_tokens.weight", (vocab, hidden)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield from attention(config, f"{layer}.self_attn")
        yield from feed_forward(config, f"{layer}.mlp", number)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def grouped_attention(config: Config, name: str) -> Shapes:
    hidden, size = config["hidden_size"], config["head_dim"]
    wide = config["num_attention_heads"] * size
    narrow = config["num_key_value_heads"] * size
    yield f"{name}.q_proj.weight", (wide, hidden)
    yield f"{name}.k_proj.weight", (narrow, hidden)
    yield f"{name}.v_proj.weight", (narrow, hidden)
    yield f"{name}.o_proj.weight", (hidden, wide)
    yield f"{name}.q_norm.weight", (size,)
    yield f"{name}.k_norm.weight", (size,)


def latent_attention(config: Config, name: str) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    query, latent = config["q_lora_rank"], config["kv_lora_rank"]
    plain, rope, value = (config[f"{n}_head_dim"] for n in ("qk_nope", "qk_rope", "v"))
    yield f"{name}.q_a_proj.weight", (query, hidden)
    yield f"{name}.q_a_layernorm.weight", (query,)
    yield f"{name}.q_b_proj.weight", (heads * (plain + rope), query)
    yield f"{name}.kv_a_proj_with_mqa.weight", (latent + rope, hidden)
    yield f"{name}.kv_a_layernorm.weight", (latent,)
    yield f"{name}.kv_b_proj.weight", (heads * (plain + value), latent)
    yield f"{name}.o_proj.weight", (hidden, heads * value)


def feed_forward(config: Config, name: str, layer: int) -> Shapes:
    hidden, width = config["hidden_size"], config["moe_intermediate_size"]
    if layer < config.get("first_k_dense_replace", 0):
        yield from gated(name, hidden, config["intermediate_size"])
        return
    count = config.get("num_experts") or config["n_routed_experts"]
    yield f"{name}.gate.weight", (count, hidden)
    if config["model_type"] == "deepseek_v3":
        yield f"{name}.gate.e_score_correction_bias", (count,)
    for expert in range(count):
        yield from gated(f"{name}.experts.{expert}", hidden, width)
    if config.get("n_shared_experts"):
        yield from gated(f"{name}.shared_experts", hidden, config["n_shared_experts"] * width)


def gated(name: str, hidden: int, width: int) -> Shapes:
    yield f"{name}.gate_proj.weight", (width, hidden)
    yield f"{name}.up_proj.weight", (width, hidden)
    yield f"{name}.down_proj.weight", (hidden, width)


def numbers(shapes: list[tuple[int, ...]]) -> Iterator[Bits]:
    """Cut from one block of random bf16, at places that differ from tensor to tensor."""
    largest = max(int(np.prod(shape)) for shape in shapes)
    normal = np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32) * 0.03
    some = (normal.view(np.uint32) >> 16).astype(np.uint16)
    block = np.tile(some, largest // some.size + 2)
    ones = np.full(1 << 16, 0x3F80, np.uint16)
    for shape, place in zip(shapes, cycle(range(0, some.size, 100_003))):
        source, at = (ones, 0) if len(shape) == 1 else (block, place)
        yield source[at : at + int(np.prod(shape))].reshape(shape)


def make(shape: str, folder: Path) -> Path:
    """Does nothing where the model is there already."""
    config = SHAPES[shape]
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    listed = list(tensors(config))
    infos = [TensorInfo(name, "BF16", size) for name, size in listed]
    write_checkpoint(folder, infos, numbers([size for _, size in listed]))
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def write_tokenizer(folder: Path) -> None:
    """One token a byte, and three of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
