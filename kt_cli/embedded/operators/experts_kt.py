"""Experts on the kernels of `kt_moe`, where they are built and can do the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kt_cli.embedded.operators.layout import Layout

# Activation classes of transformers and torch → the kernels' name.
_ACTIVATIONS = {"SiLUActivation": "silu", "SiLU": "silu", "GELUTanh": "gelu"}


def why_not_kt_moe(layout: Layout, device: str, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot compute a layer, or None."""
    if device != "cpu":
        return f"its experts live on {device}"
    if not layout.gated or not layout.plain_gate or layout.biased:
        return "its experts have a bias or a gate of their own kind"
    if layout.act_name not in _ACTIVATIONS:
        return f"it has no {layout.act_name}"
    if dtype != torch.bfloat16:
        return f"it keeps no {str(dtype).removeprefix('torch.')} weights"
    try:
        import kt_moe
    except ImportError as error:
        return str(error)
    return None if kt_moe.available else str(kt_moe.why)


class KtMoeExperts:
    def __init__(
        self,
        layout: Layout,
        read: Callable[[str], torch.Tensor],
        weight_format: str | None,
        threads: int,
    ) -> None:
        import kt_moe

        gate_up, down = read("gate_up_proj"), read("down_proj")
        if layout.transposed:
            gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
        gate, up = (half.contiguous() for half in gate_up.chunk(2, dim=1))
        del gate_up
        options: dict[str, Any] = {"format": weight_format or "bf16", "threads": threads}
        act = _ACTIVATIONS[layout.act_name]
        self.layer = kt_moe.Experts.from_weights(gate, up, down.contiguous(), act=act, **options)

    def __call__(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        self.layer.forward(x, ids, weights, out=out)
        return out
