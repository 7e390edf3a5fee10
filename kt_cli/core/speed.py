"""Predicted tokens/s and load time, as ranges: a roofline of bytes and operations.

Decode is bound by the bytes a token reads, prefill by operations once a chunk is long. The range
comes from the share of the limit an engine is known to reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.machine import Machine, Measured
from kt_cli.core.model import Model
from kt_cli.core.plan import Range, Speed


@dataclass(frozen=True, slots=True)
class Work:
    """What one token costs on the CPU, and what loading costs."""

    bytes: float
    flops: float
    weights: int
    """Bytes held once loaded."""
    checkpoint: int
    """Bytes read from disk."""
    kind: str
    """Arithmetic: fp32, bf16, int8."""
    packing_s: float = 0.0


def bandwidth(measured: Measured, threads: int) -> float | None:
    """GB/s that `threads` read, by straight lines between what was measured."""
    points = sorted(measured.read_gbs.items())
    if not points:
        return None
    below = [(0, 0.0), *(p for p in points if p[0] <= threads)][-1]
    above = next((p for p in points if p[0] >= threads), None)
    if above is None or above == below:
        return below[1]
    span = (threads - below[0]) / (above[0] - below[0])
    return below[1] + span * (above[1] - below[1])


def peak(gops: Mapping[str, float], kind: str) -> float | None:
    """Gop/s of all cores; fp32's where the kind was not measured."""
    return gops.get(kind, gops.get("fp32"))


def active_parameters(model: Model) -> int:
    """Weights a text token is multiplied with: all it touches but the embedding table."""
    table = model.parameters.get("embedding", 0) if model.parameters.get("lm_head") else 0
    return model.active_parameters - table


def prefill_share(model: Model) -> float:
    """Of a decoded token's products, what a token of a prompt costs: a causal encoder alone."""
    return model.prefill_layers / model.layers if model.prefill_layers else 1.0


def cpu_speed(machine: Machine, work: Work, threads: int, facts: EmbeddedFacts) -> Speed:
    gbs = bandwidth(machine.measured, threads)
    if gbs is None:
        return Speed(limit="speed is not predicted until `kt doctor` has measured this machine")
    share = min(1.0, threads / machine.cpu.physical_cores)
    gops = peak(machine.measured.gops, work.kind)
    prefill = gops and scale(gops * 1e9 * share / work.flops, facts.prefill_efficiency)
    return Speed(
        decode=scale(gbs * 1e9 / work.bytes, facts.decode_efficiency),
        prefill=prefill or None,
        load_s=_load(machine, work, gbs),
        limit=f"memory bandwidth: {work.bytes / 1e9:.2g} GB a token at {gbs:.0f} GB/s",
    )


def scale(value: float, efficiency: tuple[float, float]) -> Range:
    return Range(value * efficiency[0], value * efficiency[1])


def _load(machine: Machine, work: Work, gbs: float) -> Range | None:
    """From page cache to cold disk."""
    disk = machine.measured.disk_gbs
    write = work.weights / (gbs * 1e9) * 2 + work.packing_s
    return Range(write, write + work.checkpoint / (disk * 1e9)) if disk else None
