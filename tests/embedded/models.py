"""Tiny models of many families with random weights, saved as checkpoints, and their twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "bos_token_id": 0,
    "pad_token_id": 2,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_DEEPSEEK: dict[str, Any] = {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "intermediate_size": 48,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": (
        "MixtralConfig",
        {"intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "mixtral_window": (
        "MixtralConfig",
        {
            "intermediate_size": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 6,
        },
    ),
    "mixtral_tied": (
        "MixtralConfig",
        {
            "intermediate_size": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**_MOE, "intermediate_size": 48, "shared_expert_intermediate_size": 40},
    ),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_MOE, "intermediate_size": 48, "head_dim": 16, "norm_topk_prob": True},
    ),
    "qwen3_moe_mixed": (
        "Qwen3MoeConfig",
        {
            **_MOE,
            "intermediate_size": 48,
            "head_dim": 8,
            "mlp_only_layers": [0],
            "attention_bias": True,
        },
    ),
    "olmoe": (
        "OlmoeConfig",
        {"intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    "deepseek_v2": ("DeepseekV2Config", {**_DEEPSEEK, "topk_method": "greedy", "n_group": 1}),
    "deepseek_v3": ("DeepseekV3Config", {**_DEEPSEEK, "n_group": 2, "topk_group": 1}),
    "gpt_oss": (
        "GptOssConfig",
        {
            "intermediate_size": 24,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": 6,
        },
    ),
    "glm4_moe": (
        "Glm4MoeConfig",
        {
            "intermediate_size": 48,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "head_dim": 8,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "qwen3_next": (
        "Qwen3NextConfig",
        {
            **_MOE,
            "intermediate_size": 48,
            "head_dim": 8,
            "shared_expert_intermediate_size": 24,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
}
FAST = ("mixtral", "mixtral_window", "mixtral_tied", "qwen2_moe", "qwen3_moe", "qwen3_moe_mixed")


def config_of(family: str) -> Any:
    name, extra = FAMILIES[family]
    return getattr(transformers, name)(**{**SMALL, **extra})


def save_model(family: str, path: Path) -> Any:
    """Saves a random model with its tokenizer; returns the model of transformers, in float32."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
            else:
                # Norms and biases that stay at their defaults would hide a forgotten one.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    save_tokenizer(path)
    return model.eval()


def save_tokenizer(path: Path) -> None:
    """Bytes as tokens, spread so that a character of several bytes takes several tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    printable = "".join(map(chr, range(32, 127)))
    alphabet = sorted(set(level.pre_tokenize_str(printable + "é€")[0][0]))
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2}
    vocabulary |= {letter: number for number, letter in enumerate(alphabet, 3)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "</s>", "<pad>")])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = (
        "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    fast.save_pretrained(path)


def reference_tokens(model: Any, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens by running the whole text again for each one, without any cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def reference_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """[tokens, vocabulary]"""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits
