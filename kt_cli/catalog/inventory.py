"""What a model of a known family holds, computed from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.catalog.attention_stock import attention_stock, grouped, index, latent
from kt_cli.catalog.config import Config
from kt_cli.catalog.experts import expert_layers, shared_width
from kt_cli.catalog.families import Family
from kt_cli.catalog.stock import Stock
from kt_cli.catalog.vision_stock import vision_stock
from kt_cli.core.model import Experts, TensorClass


def inventory(config: Config, family: Family, experts: Experts | None) -> Iterator[Stock]:
    yield from _outer(config, family)
    yield from attention_stock(config, family)
    yield from _feed_forward(config, family, experts)
    if family.draft and experts:
        yield from _draft(config, family, experts)
    yield from vision_stock(config)


def _outer(config: Config, family: Family) -> Iterator[Stock]:
    vocab, hidden = config.number("vocab_size"), config.number("hidden_size")
    yield Stock("embedding", "model.embed_tokens", (vocab, hidden), 1, matrix=False)
    if not config.flag("tie_word_embeddings"):
        yield Stock("lm_head", "lm_head", (vocab, hidden), 1, matrix=False)
    norms = 2 * config.number("num_hidden_layers") + 1
    yield Stock("norm", "input_layernorm", (hidden,), norms, matrix=False)
    if family.attention == "compressed":
        yield from _hyper_connections(config, hidden)


def _hyper_connections(config: Config, hidden: int) -> Iterator[Stock]:
    """Manifold-constrained hyper-connections (arXiv 2512.24880): two a layer, one at the end."""
    lanes, twice = config.number("hc_mult"), 2 * config.number("num_hidden_layers")
    mixes = lanes * (2 + lanes)
    for rows, scales, times in ((mixes, 3, twice), (lanes, 1, 1)):
        yield Stock("other", "hc_fn", (rows, lanes * hidden), times, matrix=False)
        yield Stock("other", "hc_base", (rows,), times, matrix=False)
        yield Stock("other", "hc_scale", (scales,), times, matrix=False)


def _feed_forward(config: Config, family: Family, experts: Experts | None) -> Iterator[Stock]:
    sparse = len(expert_layers(config)) if experts else 0
    dense = config.number("num_hidden_layers") - sparse
    if dense:
        yield from _mlp("dense_mlp", "mlp", config, config.number(family.dense), dense)
    if experts and sparse:
        yield from _moe(config, family, experts, sparse)


def _moe(config: Config, family: Family, experts: Experts, times: int) -> Iterator[Stock]:
    yield from _mlp(
        "routed_experts", "mlp.experts.0", config, experts.intermediate, times * experts.count
    )
    if family.expert_bias:
        size = 2 * experts.intermediate + experts.hidden
        yield Stock(
            "routed_experts", "mlp.experts.bias", (size,), times * experts.count, matrix=False
        )
    width = shared_width(config, family)
    if width:
        yield from _mlp("shared_experts", "mlp.shared_experts", config, width, times)
        if family.shared_gate:
            gate = (1, experts.hidden)
            yield Stock("shared_experts", "mlp.shared_expert_gate", gate, times, matrix=False)
    yield from _router(config, family, experts, times)


def _router(config: Config, family: Family, experts: Experts, times: int) -> Iterator[Stock]:
    gate = (experts.count, experts.hidden)
    yield Stock("router", "mlp.gate", gate, times, matrix=False)
    hashed = _hashed_layers(config, times) if family.router == "hashed" else 0
    if hashed:
        table = (config.number("vocab_size"), experts.top_k)
        yield Stock("router", "mlp.gate.tid2eid", table, hashed, matrix=False, width=8)
    if family.router != "plain":
        width = 4 if family.router == "correction" else 0
        bias = (experts.count,)
        yield Stock("router", "mlp.gate.bias", bias, times - hashed, matrix=False, width=width)


def _hashed_layers(config: Config, layers: int) -> int:
    listed = config.items("mlp_layer_types")
    return (
        listed.count("hash_moe")
        if listed
        else min(layers, config.number("num_hash_layers", default=3))
    )


def _mlp(kind: TensorClass, name: str, config: Config, width: int, times: int) -> Iterator[Stock]:
    hidden = config.number("hidden_size")
    yield Stock(kind, f"{name}.gate_proj", (width, hidden), times)
    yield Stock(kind, f"{name}.up_proj", (width, hidden), times)
    yield Stock(kind, f"{name}.down_proj", (hidden, width), times)


def _draft(config: Config, family: Family, experts: Experts) -> Iterator[Stock]:
    """Multi-token prediction (arXiv 2412.19437): a whole layer more, with embedding and head."""
    times = config.number("num_nextn_predict_layers", default=0)
    if not times:
        return
    hidden, vocab = config.number("hidden_size"), config.number("vocab_size")
    layer = [*_moe(config, family, experts, times)]
    layer += (
        latent(config, times) if family.attention == "latent" else grouped(config, family, times)
    )
    if config.has("index_head_dim"):
        layer += index(config, times, config.number("q_lora_rank", default=0))
    for stock in layer:
        yield Stock("draft", stock.name, stock.shape, stock.times, stock.matrix, stock.width)
    yield Stock("draft", "eh_proj", (hidden, 2 * hidden), times, matrix=False)
    yield Stock("draft", "norms", (5 * hidden,), times, matrix=False)
    yield Stock("draft", "embed_and_head", (2 * vocab, hidden), times, matrix=False)
