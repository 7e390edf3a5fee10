"""The decoder loop of the fast families: all sequences of a step at once, over one KV pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kt_cli.embedded.operators.attention import GqaAttention, why_not_fast
from kt_cli.embedded.operators.base import BaseInjectedModule
from kt_cli.embedded.step import Step
from kt_cli.errors import UsageError


class Decoder(BaseInjectedModule):
    """Calls the parts of each layer itself; `forward(step)` → normed hidden states [rows, H].

    `transfer_map` is read by the injection, which gives the layers their devices.
    """

    layers: list[nn.Module]

    def __init__(
        self, *args: Any, transfer_map: Mapping[int, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.transfer_map = dict(transfer_map or {})

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Mapping[str, Any]) -> str | None:
        return why_not_fast(config)

    def load(self) -> None:
        super().load()
        model: Any = self.orig_module
        for number, layer in enumerate(model.layers):
            if not isinstance(layer.self_attn, GqaAttention):
                what = f"{self.key}.layers.{number}.self_attn is not a `GqaAttention`"
                raise UsageError(what, "`Decoder` works with no other attention")
        parts = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
        blocks = [tuple(getattr(layer, part) for part in parts) for layer in model.layers]
        # One device for all layers is the common case: then nothing is moved.
        object.__setattr__(self, "spread", len({block[1].device for block in blocks}) > 1)
        object.__setattr__(self, "blocks", blocks)

    def attention(self) -> list[GqaAttention]:
        return [attention for _, attention, _, _ in self.blocks]

    def forward(self, step: Step) -> torch.Tensor:
        model: Any = self.orig_module
        x = model.embed_tokens(step.ids)
        cos, sin = model.rotary_emb(x, step.positions[None])
        half = sin.shape[-1] // 2
        cos = cos[0, :, None]
        sin = torch.cat([-sin[0, :, None, :half], sin[0, :, None, half:]], dim=-1)
        for norm_in, attention, norm_out, mlp in self.blocks:
            if self.spread:
                x, cos, sin = (t.to(attention.device) for t in (x, cos, sin))
            x = x + attention(norm_in(x), cos, sin, step)
            x = x + mlp(norm_out(x))
        return model.norm(x[step.wanted])
