"""Grouped-query attention over the shared KV pool, for the fast families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kt_cli.embedded.operators.base import BaseInjectedModule
from kt_cli.embedded.step import Span, Step


class GqaAttention(BaseInjectedModule):
    """q, k and v as one product, optional norms of q and k (Qwen3), sliding window.

    `forward` takes all tokens of a step [T, H] and lets every sequence see its own segment.
    """

    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    out_bias: torch.Tensor | None
    norms: torch.Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        module: Any = self.orig_module
        self.layer = int(module.layer_idx)
        self.head_dim = int(module.head_dim)
        self.heads = self.config.num_attention_heads
        self.kv_heads = self.config.num_key_value_heads
        self.scale = float(module.scaling)
        self.window = _window(module, self.config)
        self.eps = getattr(getattr(module, "q_norm", None), "variance_epsilon", None)

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Mapping[str, Any]) -> str | None:
        return why_not_fast(config)

    def load(self) -> None:
        names = ("q_proj", "k_proj", "v_proj")
        self.qkv = torch.cat([self.read(f"{name}.weight") for name in names])
        biased = self.has("q_proj.bias")
        self.qkv_bias = torch.cat([self.read(f"{n}.bias") for n in names]) if biased else None
        self.out = self.read("o_proj.weight")
        self.out_bias = self.read("o_proj.bias") if self.has("o_proj.bias") else None
        self.norms = None
        if self.eps is not None:
            q, k = self.read("q_norm.weight"), self.read("k_norm.weight")
            self.norms = torch.cat([q.expand(self.heads, -1), k.expand(self.kv_heads, -1)])

    def unload(self) -> None:
        del self.qkv, self.out

    def forward(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """cos and sin are [T, 1, D]; sin carries the sign of the rotation."""
        heads, kv_heads = self.heads, self.kv_heads
        qkv = functional.linear(x, self.qkv, self.qkv_bias)
        qkv = qkv.view(-1, heads + 2 * kv_heads, self.head_dim)
        qk = qkv[:, : heads + kv_heads]
        if self.norms is not None:
            qk = functional.rms_norm(qk, (self.head_dim,), None, self.eps) * self.norms
        qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin)
        keys, values = step.pool.layers[self.layer]
        places = step.places.to(x.device)
        keys.index_copy_(1, places, qk[:, heads:].transpose(0, 1))
        values.index_copy_(1, places, qkv[:, heads + kv_heads :].transpose(0, 1))
        seen = [self._attend(qk[:, :heads], keys, values, span) for span in step.spans]
        joined = seen[0] if len(seen) == 1 else torch.cat(seen)
        return functional.linear(joined, self.out, self.out_bias)

    def _attend(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: Span
    ) -> torch.Tensor:
        """[n, heads, D] of one sequence → [n, heads·D]. Query heads of a KV head are neighbours."""
        first = span.start
        if span.rows == 1 and self.window is not None:
            first = max(first, span.end - self.window)
        rows = q[span.row : span.row + span.rows]
        rows = rows.reshape(span.rows, self.kv_heads, -1, self.head_dim)
        k, v = keys[:, first : span.end], values[:, first : span.end]
        if span.rows == 1:
            # One query per head: the heads of a group stand in for the queries of one head.
            return self._sdpa(rows, k[None], v[None], None, False).reshape(1, -1)
        rows = rows.permute(1, 2, 0, 3)
        group = self.heads // self.kv_heads
        k, v = (t[:, None].expand(-1, group, -1, -1) for t in (k, v))
        mask = span.mask(self.window, q.device)
        done = self._sdpa(rows, k, v, mask, mask is None)
        return done.permute(2, 0, 1, 3).reshape(span.rows, -1)

    def _sdpa(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
    ) -> torch.Tensor:
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale
        )


def _window(module: Any, config: Any) -> int | None:
    types = getattr(config, "layer_types", None)
    if types is not None and types[module.layer_idx] != "sliding_attention":
        return None
    window = getattr(module, "sliding_window", getattr(config, "sliding_window", None))
    return None if window is None else int(window)


def why_not_fast(config: Any) -> str | None:
    """What in a configuration of a fast family needs the general path."""
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        return f"its rope of type {kind} changes with the length of the text"
    return None
