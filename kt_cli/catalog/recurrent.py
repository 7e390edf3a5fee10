"""Layers that keep a state instead of every token, from a configuration.

Gated delta rule (arXiv 2412.06464), Kimi delta attention (arXiv 2510.26692) and Mamba-2 (arXiv
2405.21060): a float32 state per request, and the last inputs of a short convolution in bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kt_cli.catalog.config import Config

BLOCKS: Mapping[str, str] = {"M": "mamba", "*": "full_attention", "E": "moe", "-": "mlp"}
"""Letters of Nemotron-H's `hybrid_override_pattern`."""
NAMES: Mapping[str, str] = {"attention": "full_attention", "linear_attention": "mamba"}


def block_kinds(config: Config) -> list[str]:
    """Of models whose layers are attention, recurrence or experts alone; empty for others."""
    pattern = config.text("hybrid_override_pattern")
    strange = sorted(set(pattern) - set(BLOCKS))
    if strange:
        raise config.wrong(f"unknown kind of layer {strange[0]!r}")
    listed = config.record.texts("layers_block_type")
    return [BLOCKS[letter] for letter in pattern] or [NAMES.get(kind, kind) for kind in listed]


def recurrent_kinds(config: Config, layers: int) -> list[str]:
    """Of `linear_attn_config`, whose lists count from one; empty where there is none."""
    full = config.section("linear_attn_config").integers("full_attn_layers")
    if not full:
        return []
    return [
        "full_attention" if index in full else "linear_attention" for index in range(1, layers + 1)
    ]


def linear_state_bytes(config: Config) -> int:
    """Bytes a layer keeps for each request."""
    if config.has("mamba_num_heads"):
        return _mamba(config)
    if config.has("attn_type_list"):
        return _lightning(config)
    if _kimi(config) or config.has("linear_num_heads"):
        return _delta_attention(config)
    value_heads, value = (
        config.number("linear_num_value_heads"),
        config.number("linear_value_head_dim"),
    )
    key_heads, key = config.number("linear_num_key_heads"), config.number("linear_key_head_dim")
    channels = 2 * key_heads * key + value_heads * value
    kernel = config.number("linear_conv_kernel_dim")
    return 4 * value_heads * key * value + 2 * channels * (kernel - 1)


def _kimi(config: Config) -> Mapping[str, Any]:
    return config.part("linear_attn_config")


def _delta_attention(config: Config) -> int:
    """Queries, keys and values are as wide as each other."""
    own = Config.of(dict(_kimi(config)), config.where) if _kimi(config) else config
    heads = own.number("num_heads", "linear_num_heads")
    dim = own.number("head_dim") if _kimi(config) else own.number("linear_head_dim")
    kernel = own.number("short_conv_kernel_size", "linear_conv_kernel_dim")
    return 4 * heads * dim * dim + 2 * 3 * heads * dim * (kernel - 1)


def _lightning(config: Config) -> int:
    """MiniMax-Text-01 (arXiv 2501.08313): a float32 matrix for each head, and no convolution."""
    heads = config.number("num_attention_heads")
    dim = config.number("head_dim", default=config.number("hidden_size") // heads)
    return 4 * heads * dim * dim


def _mamba(config: Config) -> int:
    """A column of the state for each value, and groups that share their input and output maps."""
    inner = config.number("mamba_num_heads") * config.number("mamba_head_dim")
    state, groups = config.number("ssm_state_size"), config.number("n_groups", "mamba_n_groups")
    kernel = config.number("conv_kernel", "mamba_d_conv")
    return 4 * inner * state + 2 * (inner + 2 * groups * state) * (kernel - 1)
