"""Routed experts of one layer, gathered from any layout as (gate, up, down) matrices [out, in].

A layout is a tensor per expert and projection, or one tensor that holds all experts, with gate and
up joined: one after the other, or alternating (gpt-oss), inputs first or outputs first. The
matrices are those of `kt_moe.formats`: in the checkpoint's own format, with `decode()` to float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from kt_moe.checkpoints.named import PROJECTIONS, matrix_of
from kt_moe.formats import FormatError, Matrix, MxFp4, Plain

from kt_cli.core.model import Experts, Model
from kt_cli.errors import KtError
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.floats import Array

FUSED = ("gate_up_proj", "down_proj")
INPUTS_FIRST = ("GptOss", "Llama4")
"""Architectures whose fused tensors are [experts, in, out]; others are told by their shape."""

Triple = tuple[Matrix, Matrix, Matrix]


@dataclass(frozen=True, slots=True)
class Source:
    checkpoint: Checkpoint
    experts: Experts
    prefix: str
    """Of all experts' tensors of the layer, such as `model.layers.3.mlp.experts.`."""
    parts: Mapping[str, str]
    """What follows the prefix → whole name."""
    alternating: bool
    inputs_first: bool


def experts(checkpoint: Checkpoint, model: Model, layer: int) -> Iterator[Triple]:
    """Gate, up and down of every expert, one expert at a time, in order.

    Raises KtError for a layer without experts, a layout or a format that is not known. Biases
    (gpt-oss) are not in a matrix: see `expert_biases`.
    """
    if model.experts is None or layer not in model.experts.layers:
        raise KtError(f"layer {layer} of {model.name} has no routed experts")
    source = _source(checkpoint, model, model.experts, layer)
    gather = _layout(source)
    try:
        for expert in range(model.experts.count):
            yield gather(source, expert)
    except FormatError as error:
        raise KtError(f"cannot read the experts of layer {layer}", str(error)) from error


def expert_biases(checkpoint: Checkpoint, model: Model, layer: int) -> dict[str, Array]:
    """Biases by projection ([experts, out], gate and up apart); empty where there are none."""
    if model.experts is None:
        return {}
    source = _source(checkpoint, model, model.experts, layer)
    if "gate_up_proj_bias" not in source.parts:
        return {}
    joined = checkpoint[source.parts["gate_up_proj_bias"]]
    gate, up = _halves(source, joined, axis=1)
    return {"gate": gate, "up": up, "down": checkpoint[source.parts["down_proj_bias"]]}


def _source(checkpoint: Checkpoint, model: Model, geometry: Experts, layer: int) -> Source:
    pattern = re.compile(rf"((?:.*\.)?layers\.{layer}\.(?:.*\.)?experts\.)(.+)\Z")
    near = (name for name in checkpoint.names() if f"layers.{layer}." in name)  # 90,000 names
    found = [m for m in map(pattern.match, near) if m and "mtp." not in m[1]]
    if not found:
        raise KtError(f"{checkpoint.path} has no experts of layer {layer} under a known name")
    return Source(
        checkpoint,
        geometry,
        found[0][1],
        {match[2]: match[0] for match in found},
        alternating=model.architecture.startswith("GptOss"),
        inputs_first=model.architecture.startswith(INPUTS_FIRST),
    )


def _layout(source: Source) -> Callable[[Source, int], Triple]:
    if any(part.startswith(FUSED[0]) for part in source.parts):
        blocks = f"{FUSED[0]}_blocks" in source.parts
        return _fused_blocks if blocks else _fused
    names = {part.split(".")[1] for part in source.parts if part[0].isdigit()}
    for triple in PROJECTIONS:
        if names >= set(triple):
            return lambda source, expert: _single(source, expert, triple)
    raise KtError(
        f"the layout of {source.prefix} is not known", f"it has {', '.join(sorted(names)[:5])}"
    )


def _single(source: Source, expert: int, names: tuple[str, str, str]) -> Triple:
    held, base = source.checkpoint, f"{source.prefix}{expert}"
    gate, up, down = (matrix_of(held, f"{base}.{name}", held.path) for name in names)
    return gate, up, down


def _fused(source: Source, expert: int) -> Triple:
    both, down = (_outputs_first(source, name, expert) for name in FUSED)
    gate, up = _halves(source, both, axis=0)
    return Plain(gate), Plain(up), Plain(down)


def _outputs_first(source: Source, name: str, expert: int) -> Array:
    """One expert's matrix as [out, in]."""
    part = name if name in source.parts else f"{name}.weight"
    if part not in source.parts:
        raise KtError(f"{source.prefix}{name} is not there")
    matrix: Array = source.checkpoint[source.parts[part]][expert]
    hidden, width = source.experts.hidden, source.experts.intermediate
    wanted = (2 * width, hidden) if name == FUSED[0] else (hidden, width)
    turned = source.inputs_first or matrix.shape != wanted
    out = matrix.T if turned else matrix
    if out.shape != wanted:
        raise KtError(f"{source.prefix}{name} is {list(matrix.shape)} for an expert")
    return np.ascontiguousarray(out)


def _fused_blocks(source: Source, expert: int) -> Triple:
    """gpt-oss: 4-bit blocks [experts, out, in/32, 16] and scales [experts, out, in/32]."""
    (gate, gate_scale), (up, up_scale) = zip(
        *(_halves(source, part, axis=0) for part in _blocks(source, FUSED[0], expert)), strict=True
    )
    down, down_scale = _blocks(source, FUSED[1], expert)
    return MxFp4(gate, gate_scale), MxFp4(up, up_scale), MxFp4(down, down_scale)


def _blocks(source: Source, name: str, expert: int) -> tuple[Array, Array]:
    blocks = source.checkpoint[source.parts[f"{name}_blocks"]][expert]
    scales = source.checkpoint[source.parts[f"{name}_scales"]][expert]
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1)), np.ascontiguousarray(scales)


def _halves(source: Source, joined: Array, axis: int) -> tuple[Array, Array]:
    """Gate and up of what holds both along `axis`."""
    rows = np.moveaxis(joined, axis, 0)
    half = len(rows) // 2
    pair = (rows[0::2], rows[1::2]) if source.alternating else (rows[:half], rows[half:])
    gate, up = (np.ascontiguousarray(np.moveaxis(part, 0, axis)) for part in pair)
    return gate, up
