"""Experts on the kernels of `kt_moe`, where they are built and can do the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from kt_cli.embedded.operators.layout import Layout
from kt_cli.embedded.packed import Wanted

if TYPE_CHECKING:
    import kt_moe


@dataclass(frozen=True, slots=True)
class KtMoeOptions:
    format: str
    top_k: int
    threads: int


# Activation classes of transformers and torch → the kernels' name.
_ACTIVATIONS: dict[str, Literal["silu", "gelu"]] = {
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "GELUTanh": "gelu",
}


def why_not_kt_moe(layout: Layout, device: str, exact: bool) -> str | None:
    """Why the kernels cannot compute a layer, or None. `exact`: float32 was asked for."""
    if device != "cpu":
        return f"its experts live on {device}"
    if not layout.gated or not layout.plain_gate or layout.biased:
        return "its experts have a bias or a gate of their own kind"
    if layout.act_name not in _ACTIVATIONS:
        return f"the kernels have no {layout.act_name}"
    if exact:
        return "the kernels keep no float32 weights"
    try:
        import kt_moe
    except ImportError as error:
        return str(error)
    return None if kt_moe.available else str(kt_moe.why)


def wanted(layout: Layout, options: KtMoeOptions) -> Wanted:
    sizes = (layout.experts, layout.hidden, layout.intermediate)
    return Wanted(options.format, *sizes, options.top_k, _ACTIVATIONS[layout.act_name])


def packed(
    layout: Layout, read: Callable[[str], torch.Tensor], options: KtMoeOptions
) -> kt_moe.Experts:
    """Packs one expert after the other, so that only one layer's weights are held twice."""
    import kt_moe

    gate_up, down = read("gate_up_proj"), read("down_proj")
    if layout.transposed:
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
    kt_moe.set_threads(options.threads)
    made = kt_moe.Experts(
        layout.experts,
        layout.hidden,
        layout.intermediate,
        format=options.format,
        top_k=options.top_k,
        act=_ACTIVATIONS[layout.act_name],
    )
    for number, (both, back) in enumerate(zip(gate_up, down, strict=True)):
        gate, up = both.contiguous().chunk(2)
        made.set_expert(number, gate, up, back.contiguous())
    return made


class KtMoeExperts:
    def __init__(self, layer: kt_moe.Experts, threads: int) -> None:
        import kt_moe

        kt_moe.set_threads(threads)
        self.layer = layer

    def __call__(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer.forward(x.contiguous(), ids, weights.float())
        return out
