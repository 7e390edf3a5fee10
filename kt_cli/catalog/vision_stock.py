"""Tensors of a vision tower and of its bridge to the language model, from a configuration."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.catalog.config import SIZE, Config
from kt_cli.catalog.stock import Stock
from kt_cli.documents import Record

SIDE = 2
"""Patches of so many by so many become one token, where the configuration does not say."""


def vision_stock(config: Config) -> Iterator[Stock]:
    """Of a vision transformer (arXiv 2010.11929): four projections, two of the MLP, two norms."""
    vision = config.section("vision_config")
    width = _first(vision, "hidden_size", "vt_hidden_size")
    if not width:
        return
    inner = _first(vision, "intermediate_size", "vt_intermediate_size")
    layers = _first(vision, "depth", "num_hidden_layers", "vt_num_hidden_layers")
    patch = _first(vision, "patch_size") ** 2 * (_first(vision, "temporal_patch_size") or 1) * 3
    yield _tensor("attn", (4 * width, width), layers)
    yield _tensor("mlp", (2 * inner, width), layers)
    yield _tensor("biases", (9 * width + inner,), layers)
    yield _tensor("patch_embed", (width, patch + 1), 1)
    yield _tensor("pos_embed", (_first(vision, "num_position_embeddings"), width), 1)
    yield from _bridge(vision, width, config.number("hidden_size"))


def _bridge(vision: Record, width: int, hidden: int) -> Iterator[Stock]:
    merged = width * (_first(vision, "spatial_merge_size") or SIDE) ** 2
    within, out = _first(vision, "projector_input_dim"), _first(vision, "projector_output_dim")
    inside = _first(vision, "projector_hidden_size")
    if within:
        shapes = [(within, merged), (out, within), (hidden, out)]
    elif inside:
        shapes = [(inside, width), (inside, inside), (hidden, SIDE**2 * inside), (hidden, hidden)]
    else:
        shapes = [(merged, merged), (hidden, merged)]
    yield from (_tensor("merger", shape, 1) for shape in shapes)


def _tensor(name: str, shape: tuple[int, ...], times: int) -> Stock:
    return Stock("vision", f"visual.{name}", shape, times, matrix=False)


def _first(vision: Record, *keys: str) -> int:
    return vision.integer(*keys, high=SIZE[1], default=0)
