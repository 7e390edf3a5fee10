"""Predicted speed of SGLang with CPU experts: bytes and operations of a token on each side.

A decoded token pays, layer after layer, for the CPU's share of the experts and for all else on the
GPU; the two hardly overlap without deferred experts. Ranges come from the shares of the limits in
the engine's facts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log2

from kt_cli.core.methods import expert_bytes
from kt_cli.core.plan import Kind, Range, Speed
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.sglang_ledger import gpu_expert_bytes, kv_of, weight_items
from kt_cli.core.speed import active_parameters, bandwidth, peak, prefill_share


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes of one decoded token and operations of one prefilled token."""

    cpu_bytes: float
    gpu_bytes: float
    """On each GPU."""
    cpu_flops: float
    gpu_flops: float
    """On each GPU."""


def sglang_speed(case: SglangCase, choice: SglangChoice) -> Speed:
    if not case.cards(choice):
        return Speed()
    costs = _costs(case, choice)
    gbs = bandwidth(case.machine.measured, choice.threads) if choice.method else 0.0
    gpu_gbs = _slowest(g.gbs for g in case.cards(choice))
    if gbs is None or gpu_gbs is None:
        return Speed(limit="speed is not predicted until `kt doctor` has measured this machine")
    decode = _decode(case, choice, costs, gbs, gpu_gbs)
    prefill, prefill_limit = _prefill(case, choice, costs)
    return Speed(decode, prefill, _load(case), _limit(costs, gbs, gpu_gbs) + prefill_limit)


def decode_rate(case: SglangCase, choice: SglangChoice) -> float:
    """Tokens/s to compare ways by, 0 where it is not predicted."""
    costs = _costs(case, choice)
    gbs = bandwidth(case.machine.measured, choice.threads) if choice.method else 0.0
    gpu_gbs = _slowest(g.gbs for g in case.cards(choice))
    if gbs is None or gpu_gbs is None:
        return 0.0
    return _decode(case, choice, costs, gbs, gpu_gbs).low


def _slowest(figures: Iterable[float | None]) -> float | None:
    """GPUs that a model is split over wait for the slowest; None where one is not known."""
    known = list(figures)
    return None if None in known else min((f for f in known if f), default=None)


def _costs(case: SglangCase, choice: SglangChoice) -> Costs:
    model, experts = case.model, case.model.experts
    dense = sum(
        i.bytes
        for i in weight_items(model, choice.tp)
        if i.kind not in (Kind.VISION, Kind.EMBEDDING)
    )
    head = model.bytes.get("lm_head") or model.bytes.get("embedding", 0)
    kv = kv_of(case, choice).token * case.facts.typical
    passed = prefill_share(model)
    flops = 2.0 * active_parameters(model) * passed / choice.tp
    gpu = dense + head / choice.tp + kv
    if not experts:
        return Costs(0, gpu, 0, flops)
    method = case.method(choice.method)
    share = choice.experts / experts.count
    used = experts.top_k * len(experts.layers)
    on_cpu = (1 - share) * used * expert_bytes(method, model) if method else 0.0
    on_gpu = share * used * gpu_expert_bytes(model, choice.tp)
    routed = 2.0 * used * experts.parameters_each * passed
    cpu_flops = (1 - share) * routed if method else 0.0
    return Costs(on_cpu, gpu + on_gpu, cpu_flops, flops - cpu_flops / choice.tp)


def _decode(
    case: SglangCase, choice: SglangChoice, costs: Costs, gbs: float, gpu_gbs: float
) -> Range:
    method = case.method(choice.method)
    cpu = method.decode if method else (1.0, 1.0)
    seconds = []
    for end in (0, 1):
        on_cpu = costs.cpu_bytes / (gbs * 1e9 * cpu[end]) if method and gbs else 0.0
        on_gpu = costs.gpu_bytes / (gpu_gbs * 1e9 * case.facts.gpu_decode[end])
        layer_us = case.facts.layer_overhead_us[1 - end]
        layer_us += case.facts.tp_layer_us[1 - end] * log2(choice.tp)
        overhead = layer_us * 1e-6 * case.model.layers
        seconds.append(on_cpu + on_gpu + overhead)
    low, high, pace = 1 / seconds[0], 1 / seconds[1], case.facts.pace
    if pace is None:
        return Range(low, high)
    middle = pace * (low + high) / 2
    return Range(middle * 0.85, middle * 1.15)


def _prefill(case: SglangCase, choice: SglangChoice, costs: Costs) -> tuple[Range | None, str]:
    gops = case.machine.measured.gops
    gpu = _slowest(g.gops for g in case.cards(choice))
    method = case.method(choice.method)
    cpu = peak(gops, method.arithmetic) if method else None
    if gpu is None or (method and cpu is None):
        return None, ""
    facts = case.facts
    rates = []
    for end in (0, 1):
        on_gpu = costs.gpu_flops / (gpu * 1e9 * facts.gpu_prefill[end])
        on_cpu = costs.cpu_flops / (cpu * 1e9 * facts.cpu_prefill[end]) if cpu else 0.0
        rates.append(1 / (on_gpu + on_cpu))
    limit = "; prefill: CPU arithmetic" if method else ""
    layerwise = _layerwise(case, choice, costs, gpu) if choice.slot else None
    if layerwise and layerwise.high > rates[1]:
        return layerwise, "; long prefill: experts over PCIe"
    return Range(*rates), limit


def _layerwise(case: SglangCase, choice: SglangChoice, costs: Costs, gpu: float) -> Range | None:
    """A chunk streams every layer's CPU experts to the GPUs once, each its share."""
    pcie, experts = _slowest(g.pcie_gbs for g in case.cards(choice)), case.model.experts
    if not pcie or not experts:
        return None
    count = (experts.count - choice.experts) * len(experts.layers)
    size = count * gpu_expert_bytes(case.model, choice.tp) * prefill_share(case.model)
    rates = []
    for end in (0, 1):
        stream = size / (pcie * 1e9 * case.facts.pcie[end])
        work = choice.chunk * (costs.gpu_flops + costs.cpu_flops / choice.tp)
        rates.append(choice.chunk / (stream + work / (gpu * 1e9 * case.facts.gpu_prefill[end])))
    return Range(*rates)


def _load(case: SglangCase) -> Range | None:
    """The start itself, and the checkpoint at the disk's full speed and at half of it."""
    disk = case.machine.measured.disk_gbs
    low, high = case.facts.start_s
    read = case.model.total_bytes / (disk * 1e9) if disk else 0.0
    return Range(low + read, high + 2 * read) if disk else None


def _limit(costs: Costs, gbs: float, gpu_gbs: float) -> str:
    if not costs.cpu_bytes:
        return f"decode: GPU memory, {costs.gpu_bytes / 1e9:.2g} GB a token"
    slow_cpu = costs.cpu_bytes / gbs > costs.gpu_bytes / gpu_gbs
    if slow_cpu:
        return f"decode: RAM bandwidth, {costs.cpu_bytes / 1e9:.2g} GB a token at {gbs:.0f} GB/s"
    return f"decode: GPU memory, {costs.gpu_bytes / 1e9:.2g} GB a token at {gpu_gbs:.0f} GB/s"
