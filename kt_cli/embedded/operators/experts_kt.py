"""Experts on the kernels of `kt_moe`, where they are built and can do the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from kt_cli.embedded.operators.layout import Layout
from kt_cli.embedded.packed import Wanted
from kt_cli.embedded.parameters import Parts

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
    """Why the kernels cannot compute a layer, or None. `exact`: only float32 weights will do."""
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
    layout: Layout, matrices: Callable[[str], list[Parts]], options: KtMoeOptions
) -> kt_moe.Experts:
    """Packs one expert after the other from where the checkpoint is mapped."""
    import kt_moe

    kt_moe.set_threads(options.threads)
    made = kt_moe.Experts(
        layout.experts,
        layout.hidden,
        layout.intermediate,
        format=options.format,
        top_k=options.top_k,
        act=_ACTIVATIONS[layout.act_name],
    )
    pairs = zip(matrices("gate_up_proj"), matrices("down_proj"), strict=True)
    for number, (both, down) in enumerate(pairs):
        made.set_expert(number, *_outputs_first(both, 2, layout), *_outputs_first(down, 1, layout))
    return made


def _outputs_first(parts: Parts, count: int, layout: Layout) -> Iterator[torch.Tensor]:
    """One expert's `count` matrices [out, in]."""
    if layout.transposed or len(parts) != count:
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        parts = (whole.T if layout.transposed else whole).contiguous().chunk(count)
    return (_packable(part) for part in parts)


def _packable(matrix: torch.Tensor) -> torch.Tensor:
    known = matrix.dtype in (torch.bfloat16, torch.float16, torch.float32)
    return (matrix if known else matrix.float()).contiguous()


class KtMoeExperts:
    def __init__(self, layer: kt_moe.Experts, threads: int) -> None:
        import kt_moe

        kt_moe.set_threads(threads)
        self.layer = layer

    def __call__(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer.forward(x.contiguous(), ids, weights.float())
        return out
