"""How many bytes a token, and a request, keep in the KV cache.

Grouped-query attention keeps `kv_heads · (head_dim + v_head_dim)` values a layer and token; KV
heads split over GPUs, but never below one. Multi-head latent attention (DeepSeek-V2, arXiv
2405.04434) keeps `kv_lora_rank + rope_dim`, whole on every GPU. Windowed layers stop at the window,
linear layers keep one state a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.core.model import Attention

INDEX_SCALE_GROUP = 128
"""Sparse attention (DeepSeek-V3.2) keeps index keys in FP8, a 4-byte scale per 128 values."""


@dataclass(frozen=True, slots=True)
class KvCost:
    """Bytes on one device: `token` for each token kept, `request` for each request in flight."""

    token: int
    window: int
    """Of each token inside the window, beyond `token`."""
    request: int
    formula: str
    span: int = 0
    """Tokens a windowed layer keeps."""

    def total(self, tokens: int, requests: int) -> int:
        """All requests together may hold `tokens`."""
        windowed = self.window * min(tokens, requests * self.span)
        return self.token * tokens + windowed + self.request * requests


def kv_cost(attention: Attention, width: float, tp: int = 1, *, latent: bool = True) -> KvCost:
    """`width` is bytes per value; `latent=False` is an engine that expands MLA to full heads."""
    per_layer, formula = _layer(attention, width, tp, latent)
    whole, whole_formula = _global_layer(attention, width, tp) or (per_layer, formula)
    index = _index(attention)
    full = attention.full_layers * whole + -(
        -attention.full_layers * index // attention.index_every
    )
    parts = [f"{attention.full_layers} layers × {whole_formula}"] if attention.full_layers else []
    for layers, every in attention.compressed_layers:
        full += -(-layers * (per_layer + index) // every)
        parts.append(f"{layers} layers × {formula} every {every} tokens")
    if attention.window_layers:
        parts.append(f"{attention.window_layers} layers × {formula} up to {attention.window}")
    if index:
        shared = f" every {attention.index_every} tokens" if attention.index_every > 1 else ""
        parts.append(f"{index} B index a layer{shared}")
    state = -(-attention.linear_layers * attention.linear_state_bytes // tp)
    if state:
        parts.append(f"{state} B state a request")
    return KvCost(
        token=full,
        window=attention.window_layers * per_layer,
        request=state,
        formula=" + ".join(parts),
        span=attention.window,
    )


def _layer(a: Attention, width: float, tp: int, latent: bool) -> tuple[int, str]:
    if a.kind == "mla" and latent:
        values = a.kv_lora_rank + a.rope_dim
        return int(values * width), f"({a.kv_lora_rank}+{a.rope_dim})·{width:g} B"
    heads = a.heads if a.kind == "mla" else a.kv_heads
    local = max(1, heads // tp)
    formula = f"{local} heads·({a.head_dim}+{a.v_head_dim})·{width:g} B"
    return int(local * (a.head_dim + a.v_head_dim) * width), formula


def _global_layer(a: Attention, width: float, tp: int) -> tuple[int, str] | None:
    """Layers without a window where they have heads of their own."""
    if not a.global_kv_heads:
        return None
    local, dim = max(1, a.global_kv_heads // tp), a.global_head_dim or a.head_dim
    return int(local * 2 * dim * width), f"{local} heads·({dim}+{dim})·{width:g} B"


def _index(a: Attention) -> int:
    scales = -(-a.index_head_dim // INDEX_SCALE_GROUP) * 4
    return a.index_head_dim + scales if a.index_head_dim else 0
