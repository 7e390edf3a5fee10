"""What an SGLang plan is made from, and the values its ledger depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_cli.core.adapter import Adapter
from kt_cli.core.facts import Method, SglangFacts
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.methods import nvidia
from kt_cli.core.model import Model
from kt_cli.core.wishes import Wishes


@dataclass(frozen=True, slots=True)
class SglangCase:
    machine: Machine
    model: Model
    wishes: Wishes
    facts: SglangFacts
    hints: Hints = field(default_factory=Hints)
    adapter: Adapter | None = None

    @property
    def tuned_experts(self) -> bool:
        """The adapter changes routed experts: kt-kernel must compute them all."""
        return self.adapter is not None and self.adapter.experts > 0

    def cards(self, choice: SglangChoice) -> tuple[Gpu, ...]:
        return tuple(g for g in self.machine.gpus if g.index in choice.gpus)

    def method(self, name: str) -> Method | None:
        return self.facts.method(name)


@dataclass(frozen=True, slots=True)
class SglangChoice:
    gpus: tuple[int, ...]
    """Indices of those that the model is split over."""
    nodes: tuple[int, ...]
    method: str
    """Empty when every expert is on the GPU and kt-kernel has no part."""
    threads: int
    kv_dtype: str
    requests: int
    chunk: int = 2048
    context: int = 0
    kv_tokens: int = 0
    slot: bool = False
    """Memory for a whole layer of experts on the GPU in long prefills."""
    experts: int = 0
    """GPU experts per layer."""

    @property
    def tp(self) -> int:
        return max(1, len(self.gpus))


def unsupported(case: SglangCase) -> str:
    """Why the model's experts cannot run on the CPU under SGLang, empty when they can."""
    return starting(case.facts.unsupported, case.model.architecture)


def starting(known: Mapping[str, str], architecture: str) -> str:
    """What is known of the first name that the architecture's begins with, else empty."""
    return next((value for n, value in known.items() if architecture.startswith(n)), "")


def tp_obstacle(model: Model, tp: int, limit: int | None) -> str:
    """Why the model cannot be split over `tp` GPUs, empty when it can."""
    attention, experts = model.attention, model.experts
    if limit and tp > limit:
        return f"this model goes wrong beyond tp {limit}"
    if attention.heads % tp:
        return f"{attention.heads} heads cannot be split by {tp}"
    if attention.kind == "gqa" and attention.kv_heads % tp and tp % attention.kv_heads:
        return f"{attention.kv_heads} KV heads cannot be split by {tp}"
    if experts and experts.intermediate % tp:
        return f"experts of width {experts.intermediate} cannot be split by {tp}"
    if experts and model.quantization.method == "fp8" and experts.intermediate // tp % 128:
        return f"FP8 blocks of 128 do not fit in width {experts.intermediate} split by {tp}"
    return ""


def tp_values(case: SglangCase) -> list[int]:
    """Every split that works on this machine, the fewest GPUs first."""
    limit = case.hints.tp_max
    found = range(1, len(nvidia(case.machine)) + 1)
    return [tp for tp in found if not tp_obstacle(case.model, tp, limit)]


def card_sets(machine: Machine, count: int) -> list[tuple[int, ...]]:
    """Of all ways to take `count` GPUs those that may be best, most memory first.

    What counts of a set is its least memory, its slowest card and its lowest capability: so for
    every pair of speed and capability, those with most free memory among the cards that reach both.
    """
    cards = nvidia(machine)
    levels = {(g.gbs or 0.0, g.capability or (8, 0)) for g in cards}
    found = []
    for speed in {gbs for gbs, _ in levels}:
        for capability in {low for _, low in levels}:
            able = [g for g in cards if (g.gbs or 0.0) >= speed]
            able = [g for g in able if (g.capability or (8, 0)) >= capability]
            best = sorted(able, key=lambda g: (-g.free, -(g.gbs or 0.0), g.index))[:count]
            if len(best) == count:
                found.append(tuple(sorted(g.index for g in best)))
    free = {g.index: g.free for g in cards}
    return sorted(dict.fromkeys(found), key=lambda way: (-min(free[i] for i in way), way))


def attention_kernels(case: SglangCase, choice: SglangChoice) -> tuple[str | None, str]:
    """SGLang's kernels for attention unless asked otherwise, None for its own choice; and why."""
    hinted = case.hints.flags.get("attention_backend")
    if hinted:
        return hinted, f"recommended for this model ({case.hints.source})"
    only = starting(case.facts.attention, case.model.architecture)
    if only:
        return only, "SGLang starts this model with few kernels; these run on every GPU"
    if case.model.attention.index_head_dim:
        return None, "sparse attention chooses its own kernels"
    low = min((g.capability or (8, 0) for g in case.cards(choice)), default=(8, 0))
    if low < (8, 0):
        return "triton", "flashinfer needs compute capability 8.0"
    return "flashinfer", "fast on every GPU since Ampere"


def prefill_threshold(case: SglangCase, choice: SglangChoice) -> int:
    """Tokens of a prompt from which layer-wise prefill takes it, unless asked otherwise."""
    hinted = case.hints.flags.get("gpu_prefill_threshold")
    return min(hinted or case.facts.prefill_threshold, choice.chunk)
