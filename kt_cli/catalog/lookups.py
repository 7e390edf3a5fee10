"""Tables of which a token reads a few rows: n-gram embeddings, Engram, embeddings of each layer.

They take no part in products, so they may stay on disk and be read row by row.
"""

from __future__ import annotations

from kt_cli.catalog.config import Config


def lookup_rows(config: Config) -> tuple[int, int]:
    """Rows that a token reads of all tables together, and values in a row; 0, 0 for none."""
    if config.items("ple_layer_ids"):
        heads = (config.number("ngram_size", default=3) - 1) * config.number(
            "heads_per_ngram", default=8
        )
        width = config.number("ple_embed_dim", default=config.number("hidden_size"))
        return heads * len(config.items("ple_layer_ids")), width // heads
    if config.items("engram_layer_ids"):
        orders = config.number("engram_max_ngram_size") - 1
        heads = orders * config.number("engram_n_heads")
        return heads * len(config.items("engram_layer_ids")), config.number("engram_head_dim")
    each = config.number("hidden_size_per_layer_input", default=0)
    return (1, each * config.number("num_hidden_layers")) if each else (0, 0)


SCALE_GROUP = 32
"""Values of an Engram row that share a byte of scale: 256 and 8 bytes a row in DeepSeek-V4.1."""


def stored_lookup(config: Config, values: int, width: int, quantised: bool) -> int:
    """Bytes of tables: FP8 in quantised checkpoints, else in the model's own type."""
    if not quantised:
        return values * width
    return values + (values // SCALE_GROUP if config.items("engram_layer_ids") else 0)


def prefill_layers(config: Config) -> int:
    """Layers of a causal encoder, which a prompt passes alone: up to the last one that makes keys
    for all layers after it (DeepSeek-V4.1). 0 where a prompt passes every layer."""
    sources = [layer for layer in config.items("kv_source_layer_ids") if isinstance(layer, int)]
    return min(max(sources, default=0), config.number("num_hidden_layers"))
