"""Attention geometry from a configuration: which layers keep what in the KV cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kt_cli.catalog.config import Config
from kt_cli.catalog.patterns import all_windowed, pattern_kinds, unread_pattern
from kt_cli.catalog.recurrent import block_kinds, linear_state_bytes, recurrent_kinds
from kt_cli.core.model import Attention
from kt_cli.documents import shown

FULL = frozenset({"full_attention", "indexed_attention", "minimax_m3_sparse", "attention"})
WINDOW = frozenset({"sliding_attention", "chunked_attention"})
LINEAR = frozenset({"linear_attention", "mamba"})
NOTHING = frozenset({"moe", "mlp"})
"""Layers that do not look at other tokens, where these are layers of their own (Nemotron-H)."""
COMPRESSED = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128}
"""DeepSeek-V4: tokens per compressed entry, where the configuration does not say."""


def read_attention(config: Config) -> Attention:
    kinds = layer_kinds(config)
    if config.has("kv_lora_rank"):
        return _latent(config, kinds)
    if any(kind in COMPRESSED for kind in kinds):
        return _compressed(config, kinds)
    if config.has("kv_source_layer_ids"):
        return _shared(config)
    return _grouped(config, kinds)


def layer_kinds(config: Config) -> list[str]:
    """One kind per layer, from `layer_types` or from the other spellings of it."""
    layers = config.number("num_hidden_layers")
    given = (
        list(config.record.texts("layer_types")) and list(config.items("layer_types", layers))
    ) or block_kinds(config)
    given = given[:layers] or recurrent_kinds(config, layers) or _older_spelling(config, layers)
    known = FULL | WINDOW | LINEAR | NOTHING | set(COMPRESSED)
    unknown = [kind for kind in given if kind not in known]
    if unknown:
        raise config.wrong(f"unknown kind of attention {shown(unknown[0])}")
    return given


def attention_notes(config: Config) -> tuple[str, ...]:
    """What a plan guesses of the layers, because the configuration does not say it, or not in a
    way that is understood."""
    if set(layer_kinds(config)) != {"full_attention"} or config.has("layer_types"):
        return ()
    layers = config.number("num_hidden_layers")
    if pattern_kinds(config, layers):
        return ()
    unread = unread_pattern(config, layers)
    if unread:
        return (f"the attention pattern {unread} is not understood: planned as full attention",)
    if _window_everywhere(config) is None:
        why = "the configuration does not say which layers have it"
        return (f"the window of {_window(config)} tokens is planned as full attention: {why}",)
    return ()


def _older_spelling(config: Config, layers: int) -> list[str]:
    sparse = config.section("sparse_attention_config").integers("sparse_attention_freq")
    if sparse:
        kinds = ["minimax_m3_sparse" if on else "full_attention" for on in sparse[:layers]]
        return [*kinds, *["full_attention"] * (layers - len(kinds))]
    if config.has("kv_source_layer_ids"):
        return ["sliding_attention"] * layers
    if config.has("compress_ratios"):
        names = {0: "sliding_attention", **{ratio: kind for kind, ratio in COMPRESSED.items()}}
        ratios = config.record.integers("compress_ratios", least=layers)[:layers]
        return [names.get(ratio, f"ratio {ratio}") for ratio in ratios]
    every_few = config.has("linear_num_value_heads") and not pattern_kinds(config, layers)
    if config.has("full_attention_interval") or every_few:
        every = config.number("full_attention_interval", default=4)
        return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    return _windows(config, layers)


def _windows(config: Config, layers: int) -> list[str]:
    if config.has("attention_chunk_size"):
        every = config.number("no_rope_layer_interval", default=4)
        rope = config.items("no_rope_layers", layers) or [(i + 1) % every for i in range(layers)]
        return ["chunked_attention" if on else "full_attention" for on in rope[:layers]]
    kinds = pattern_kinds(config, layers)
    if kinds:
        leaves_out = "sliding_attention" not in kinds or _window(config) < _context(config)
        return kinds if leaves_out else ["full_attention"] * layers
    if unread_pattern(config, layers):
        return ["full_attention"] * layers
    if config.model_type == "gpt_oss":
        return ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    if not _window_everywhere(config):
        return ["full_attention"] * layers
    full = config.number("max_window_layers", default=0)
    return ["full_attention" if i < full else "sliding_attention" for i in range(layers)]


def _window_everywhere(config: Config) -> bool | None:
    """None where there is a window, and nothing that says of which layers."""
    if not config.number("sliding_window", default=0):
        return False
    if config.has("use_sliding_window") and not config.flag("use_sliding_window"):
        return False
    if _window(config) >= _context(config):
        return False
    return True if all_windowed(config) or config.flag("use_sliding_window") else None


def _context(config: Config) -> int:
    return config.number("max_position_embeddings", "max_sequence_length", default=1 << 40)


def head_dim(config: Config) -> int:
    if config.has("head_dim"):
        return config.number("head_dim")
    return config.number("hidden_size") // max(1, config.number("num_attention_heads"))


def kv_heads(config: Config) -> int:
    own = ("num_key_value_heads", "num_attention_groups")
    return config.number(*own, default=config.number("num_attention_heads"))


def _grouped(config: Config, kinds: Sequence[str]) -> Attention:
    count = Counter(map(_group, kinds))
    own = config.number("num_global_key_value_heads", default=0) if count["window"] else 0
    near = config.number("swa_num_key_value_heads", default=0) if count["window"] else 0
    wide = head_dim(config)
    return Attention(
        kind="gqa",
        heads=config.number("num_attention_heads"),
        kv_heads=near or kv_heads(config),
        head_dim=config.number("swa_head_dim", default=wide) if near else wide,
        v_head_dim=config.number("v_head_dim", default=wide),
        full_layers=count["full"],
        window_layers=count["window"],
        window=_window(config) if count["window"] else 0,
        linear_layers=count["linear"],
        linear_state_bytes=linear_state_bytes(config) if count["linear"] else 0,
        index_head_dim=_grouped_index(config, kinds),
        index_every=config.number("indexer_compress_ratio", default=1),
        global_kv_heads=own or (kv_heads(config) if near else 0),
        global_head_dim=config.number("global_head_dim", default=wide) if own or near else 0,
    )


def _group(kind: str) -> str:
    if kind in NOTHING:
        return "nothing"
    return "window" if kind in WINDOW else "linear" if kind in LINEAR else "full"


def _grouped_index(config: Config, kinds: Sequence[str]) -> int:
    """Selectors of MiniMax-M3, and of Qwen's sparse attention (qwen4_exp)."""
    own = config.number("indexer_head_dim", default=0)
    return index_dim(config) if "minimax_m3_sparse" in kinds else own


def _window(config: Config) -> int:
    return config.number("sliding_window", "sliding_window_size", "attention_chunk_size")


def index_dim(config: Config) -> int:
    sparse = config.section("sparse_attention_config").integer("sparse_index_dim", default=0)
    return config.number("index_head_dim", default=sparse)


def _latent(config: Config, kinds: Sequence[str]) -> Attention:
    rope = config.number("qk_rope_head_dim")
    linear = sum(kind in LINEAR for kind in kinds)
    return Attention(
        kind="mla",
        heads=config.number("num_attention_heads"),
        kv_heads=kv_heads(config),
        head_dim=config.number("qk_nope_head_dim") + rope,
        v_head_dim=config.number("v_head_dim"),
        full_layers=len(kinds) - linear,
        linear_layers=linear,
        linear_state_bytes=linear_state_bytes(config) if linear else 0,
        kv_lora_rank=config.number("kv_lora_rank"),
        rope_dim=rope,
        index_head_dim=config.number("index_head_dim", default=0),
        whole_parameters=_whole(config, len(kinds) - linear),
    )


def _whole(config: Config, layers: int) -> int:
    """Down-projections of MLA, and the indexer's projections where a layer has one."""
    hidden, query = config.number("hidden_size"), config.number("q_lora_rank", default=0)
    down = query + config.number("kv_lora_rank") + config.number("qk_rope_head_dim")
    heads, dim = (
        config.number("index_n_heads", default=0),
        config.number("index_head_dim", default=0),
    )
    index = dim * hidden + heads * dim * query + heads * hidden
    return layers * hidden * down + indexers(config, layers) * index


def indexers(config: Config, layers: int) -> int:
    """Some layers reuse the selection of the layer before them and have no indexer."""
    if not config.has("index_head_dim"):
        return 0
    kinds = config.items("indexer_types", layers)[:layers]
    return sum(kind == "full" for kind in kinds) if kinds else layers


def _compressed(config: Config, kinds: Sequence[str]) -> Attention:
    """One head that is key and value at once: a window in every layer, and compressed entries."""
    rates = config.section("compress_rates")
    count = Counter(kind for kind in kinds if kind in COMPRESSED)
    return Attention(
        kind="gqa",
        heads=config.number("num_attention_heads"),
        kv_heads=config.number("num_key_value_heads", default=1),
        head_dim=head_dim(config),
        v_head_dim=0,
        full_layers=0,
        window_layers=len(kinds),
        window=config.number("sliding_window", default=128),
        rope_dim=config.number("qk_rope_head_dim", default=64),
        index_head_dim=config.number("index_head_dim", default=0),
        whole_parameters=_whole_compressed(config, count, len(kinds)),
        compressed_layers=tuple(
            (layers, rates.integer(kind, low=1, default=COMPRESSED[kind]))
            for kind, layers in count.items()
        ),
    )


def _whole_compressed(config: Config, count: Counter[str], layers: int) -> int:
    """The query's down-projection, compressors and the indexer; the one KV head is not among them.

    SGLang's `models/deepseek_v4.py` and `attention/dsv4` have them as replicated linear layers.
    """
    hidden, query = config.number("hidden_size"), config.number("q_lora_rank", default=0)
    dim, index = head_dim(config), config.number("index_head_dim", default=0)
    heads = config.number("index_n_heads", default=0)
    sparse, heavy = count["compressed_sparse_attention"], count["heavily_compressed_attention"]
    compressors = 4 * sparse * (dim + index) + 2 * heavy * dim
    indexer = heads * (index * query + hidden)
    return hidden * (layers * query + compressors) + sparse * indexer


def _shared(config: Config) -> Attention:
    """DeepSeek-V4.1: a window in every layer, and entries of a few source layers that all read."""
    ratios = config.record.integers("compress_ratios", least=config.number("num_hidden_layers"))
    layers = config.record.integers("kv_source_layer_ids", high=len(ratios) - 1)
    if not all(ratios[layer] for layer in layers):
        raise config.wrong("`kv_source_layer_ids` names layers without compressed entries")
    sources = Counter(ratios[layer] for layer in layers)
    return Attention(
        kind="gqa",
        heads=config.number("num_attention_heads"),
        kv_heads=config.number("num_key_value_heads", default=1),
        head_dim=head_dim(config),
        v_head_dim=0,
        full_layers=0,
        window_layers=config.number("num_hidden_layers"),
        window=config.number("sliding_window", default=128),
        index_head_dim=config.number("index_head_dim", default=0),
        compressed_layers=tuple((layers, ratio) for ratio, layers in sorted(sources.items())),
    )
