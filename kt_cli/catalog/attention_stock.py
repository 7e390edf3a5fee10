"""Tensors of the attention layers, computed from a configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kt_cli.catalog.attention import (
    COMPRESSED,
    LINEAR,
    head_dim,
    index_dim,
    indexers,
    kv_heads,
    layer_kinds,
)
from kt_cli.catalog.config import Config
from kt_cli.catalog.families import Family
from kt_cli.catalog.stock import Stock
from kt_cli.core.model import TensorClass


def attention_stock(config: Config, family: Family) -> Iterator[Stock]:
    kinds = Counter(layer_kinds(config))
    linear = sum(kinds[kind] for kind in LINEAR)
    full = kinds.total() - linear
    if linear:
        yield from _linear(config, family, linear)
    if family.attention == "latent":
        yield from latent(config, full)
        yield from index(config, indexers(config, full), config.number("q_lora_rank", default=0))
    elif family.attention == "compressed":
        yield from _compressed(config, kinds)
    else:
        yield from grouped(config, family, full)
        yield from _block_index(config, kinds["minimax_m3_sparse"])


def _project(name: str, rows: int, columns: int, times: int) -> Stock:
    return Stock("attention", f"self_attn.{name}", (rows, columns), times)


def _vector(name: str, size: int, times: int) -> Stock:
    kind: TensorClass = "norm" if "norm" in name else "attention"
    return Stock(kind, f"self_attn.{name}", (size,), times, matrix=False)


def grouped(config: Config, family: Family, times: int) -> Iterator[Stock]:
    hidden, dim = config.number("hidden_size"), head_dim(config)
    query, key = config.number("num_attention_heads") * dim, kv_heads(config) * dim
    rows = {
        "q_proj": query * (2 if family.output_gate else 1),
        "k_proj": key,
        "v_proj": key,
    }
    for name, size in rows.items():
        yield _project(name, size, hidden, times)
    yield _project("o_proj", hidden, query, times)
    biased = family.qkv_bias or (family.bias_key and config.flag(family.bias_key))
    if biased:
        if family.output_bias:
            rows["o_proj"] = hidden
        yield from (_vector(f"{name}.bias", size, times) for name, size in rows.items())
    if family.qk_norm != "none" and config.flag("use_qk_norm", default=True):
        whole = family.qk_norm == "full"
        yield _vector("q_norm", query if whole else dim, times)
        yield _vector("k_norm", key if whole else dim, times)
    if family.sinks:
        yield _vector("sinks", config.number("num_attention_heads"), times)


def latent(config: Config, times: int) -> Iterator[Stock]:
    """Multi-head latent attention, arXiv 2405.04434."""
    hidden, heads = config.number("hidden_size"), config.number("num_attention_heads")
    nope, rope = config.number("qk_nope_head_dim"), config.number("qk_rope_head_dim")
    latent, value = config.number("kv_lora_rank"), config.number("v_head_dim")
    query = config.number("q_lora_rank", default=0)
    if query:
        yield _project("q_a_proj", query, hidden, times)
        yield _vector("q_a_layernorm", query, times)
        yield _project("q_b_proj", heads * (nope + rope), query, times)
    else:
        yield _project("q_proj", heads * (nope + rope), hidden, times)
    yield _project("kv_a_proj_with_mqa", latent + rope, hidden, times)
    yield _vector("kv_a_layernorm", latent, times)
    yield _project("kv_b_proj", heads * (nope + value), latent, times)
    yield _project("o_proj", hidden, heads * value, times)


def index(config: Config, times: int, query: int) -> Iterator[Stock]:
    """Lightning indexer of DeepSeek-V3.2."""
    if not times:
        return
    hidden, heads, dim = (
        config.number("hidden_size"),
        config.number("index_n_heads"),
        index_dim(config),
    )
    yield _project("indexer.wk", dim, hidden, times)
    yield _project("indexer.wq_b", heads * dim, query, times)
    yield Stock("attention", "self_attn.indexer.weights_proj", (heads, hidden), times, matrix=False)
    yield _vector("indexer.k_norm.weight", dim, times)
    yield _vector("indexer.k_norm.bias", dim, times)


def _block_index(config: Config, times: int) -> Iterator[Stock]:
    """Block selector of MiniMax-M3: index queries, one index key, a norm for each."""
    if not times:
        return
    sparse = config.section("sparse_attention_config")
    listed = sparse.integer("sparse_num_index_heads", default=0)
    heads = config.number("index_n_heads", default=listed)
    hidden, dim = config.number("hidden_size"), index_dim(config)
    yield _project("index_q_proj", heads * dim, hidden, times)
    yield _project("index_k_proj", dim, hidden, times)
    yield _vector("index_q_norm", dim, times)
    yield _vector("index_k_norm", dim, times)


def _linear(config: Config, family: Family, times: int) -> Iterator[Stock]:
    """Gated delta-rule layers of Qwen3-Next."""
    hidden, heads = config.number("hidden_size"), config.number("linear_num_value_heads")
    value = heads * config.number("linear_value_head_dim")
    channels = (
        2 * config.number("linear_num_key_heads") * config.number("linear_key_head_dim") + value
    )
    kernel = config.number("linear_conv_kernel_dim")

    def project(name: str, rows: int, columns: int) -> Stock:
        return Stock("attention", f"linear_attn.{name}", (rows, columns), times)

    joined = {"in_proj_qkvz": channels + value, "in_proj_ba": 2 * heads}
    apart = {"in_proj_qkv": channels, "in_proj_z": value, "in_proj_b": heads, "in_proj_a": heads}
    for name, rows in (joined if family.linear == "joined" else apart).items():
        yield project(name, rows, hidden)
    yield project("out_proj", hidden, value)
    yield Stock("attention", "linear_attn.conv1d", (channels, 1, kernel), times, matrix=False)
    yield Stock("attention", "linear_attn.A_log", (2 * heads,), times, matrix=False)
    norm = config.number("linear_value_head_dim")
    yield Stock("norm", "linear_attn.norm", (norm,), times, matrix=False)


def _compressed(config: Config, kinds: Counter[str]) -> Iterator[Stock]:
    """DeepSeek-V4: one head that is key and value, compressors, a grouped output projection."""
    hidden, heads, dim = (
        config.number("hidden_size"),
        config.number("num_attention_heads"),
        head_dim(config),
    )
    query, groups = config.number("q_lora_rank"), config.number("o_groups")
    out, times = groups * config.number("o_lora_rank"), kinds.total()
    yield _project("wq_a", query, hidden, times)
    yield _project("wq_b", heads * dim, query, times)
    yield _project("wkv", dim, hidden, times)
    yield _project("wo_a", out, heads * dim // groups, times)
    yield _project("wo_b", hidden, out, times)
    yield _vector("q_norm", query, times)
    yield _vector("kv_norm", dim, times)
    yield _vector("attn_sink", heads, times)
    for kind in COMPRESSED:
        yield from _compressor(config, kind, kinds[kind], dim)
    sparse = kinds["compressed_sparse_attention"]
    index = index_dim(config)
    yield from _compressor(config, "compressed_sparse_attention", sparse, index)
    if sparse:
        yield _project("indexer.wq_b", config.number("index_n_heads") * index, query, sparse)
        yield _project("indexer.weights_proj", config.number("index_n_heads"), hidden, sparse)


def _compressor(config: Config, kind: str, times: int, dim: int) -> Iterator[Stock]:
    """The sparse kind overlaps its blocks, so it is twice as wide."""
    if not times:
        return
    rate = config.section("compress_rates").integer(kind, low=1, default=COMPRESSED[kind])
    width = 2 * dim if kind == "compressed_sparse_attention" else dim
    shape = (width, config.number("hidden_size"))
    yield Stock("attention", "self_attn.compressor.wkv", shape, times, matrix=False)
    yield Stock("attention", "self_attn.compressor.wgate", shape, times, matrix=False)
    yield Stock("attention", "self_attn.compressor.ape", (rate, width), times, matrix=False)
    yield _vector("compressor.norm", dim, times)
