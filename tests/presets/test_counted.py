"""Parameters that presets state by class, against transformers' own models of the same widths."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from kt_cli.catalog.naming import classify
from kt_cli.catalog.presets import load_presets, preset_model

PRESETS = {p.name: p for p in load_presets()}
PATTERN_KEY = "hybrid_override_pattern"
PATTERN = {"M": "linear_attention", "E": "moe", "*": "full_attention"}


def widths(name: str, *keys: str) -> dict[str, Any]:
    config = PRESETS[name].config
    text = config.get("text_config", config)
    return {key: text[key] for key in keys}


CASES = {
    "Hy3": ("hy_v3", "HYV3ForCausalLM", {}),
    "GLM-5.3-Flash": ("glm5_next_text", "Glm5NextTextModel", {}),
    "Gemma-4-26B-A4B": (
        "gemma4_text",
        "Gemma4ForCausalLM",
        {
            **widths("Gemma-4-26B-A4B", "hidden_size", "intermediate_size", "num_hidden_layers",
                     "num_attention_heads", "num_key_value_heads", "head_dim", "global_head_dim",
                     "num_global_key_value_heads", "num_experts", "top_k_experts", "layer_types",
                     "moe_intermediate_size", "hidden_size_per_layer_input", "vocab_size"),
            "enable_moe_block": True,
            "attention_k_eq_v": True,
        },
    ),
    "Qwen3.8-Flash-Next": (
        "qwen4_exp_text",
        "Qwen4ExpForCausalLM",
        {
            **widths("Qwen3.8-Flash-Next", "hidden_size", "num_hidden_layers", "head_dim",
                     "num_attention_heads", "num_key_value_heads", "linear_num_key_heads",
                     "linear_num_value_heads", "moe_intermediate_size", "num_experts",
                     "shared_expert_intermediate_size", "num_experts_per_tok", "ple_layer_ids",
                     "indexer_head_dim", "indexer_compress_ratio", "vocab_size"),
            "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_budget": 2048, "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7,
                                "partial_rotary_factor": 0.25},
        },
    ),
    "Nemotron-3-Super-120B-A12B": (
        "nemotron_h",
        "NemotronHForCausalLM",
        {
            **widths("Nemotron-3-Super-120B-A12B", "num_key_value_heads", "n_routed_experts",
                     "num_experts_per_tok", "moe_intermediate_size", "moe_latent_size"),
            "moe_shared_expert_intermediate_size": 5376,
            "layers_block_type": [
                PATTERN[letter]
                for letter in widths("Nemotron-3-Super-120B-A12B", PATTERN_KEY)[PATTERN_KEY]
            ],
        },
    ),
}  # fmt: skip
ASIDE = ("draft", "vision")
"""What the text model of transformers does not have."""


@pytest.mark.parametrize("name", CASES)
def test_counted_parameters_are_those_of_transformers(name: str) -> None:
    kind, architecture, widths = CASES[name]
    if kind not in CONFIG_MAPPING or not hasattr(transformers, architecture):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    with torch.device("meta"):
        built = getattr(transformers, architecture)(CONFIG_MAPPING[kind](**widths))
    found: Counter[str] = Counter()
    ours = preset_model(PRESETS[name])
    for tensor, values in built.named_parameters():
        found[classify(tensor, ours.layers) or "nothing"] += values.numel()
    if name == "GLM-5.3-Flash":  # the bare model, without its head
        found["lm_head"] = found["embedding"]
    stated = {kind: n for kind, n in ours.parameters.items() if kind not in ASIDE}
    assert stated == pytest.approx(dict(found), rel=1e-5)
