"""The ledger of LoRA fine-tuning: frozen experts in RAM, all else and the adapters on the GPUs.

Weights are sharded over the GPUs (FSDP2), one sample runs on each. An adapter of rank r on a matrix
of m × n adds r·(m + n) parameters (arXiv 2106.09685). Activations are either kept from the forward
pass, or only each layer's input is and the rest is computed again (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kt_cli.core.facts import SftFacts, SftFormat
from kt_cli.core.ledger import computed_items, gpu_pool, parameters_of, ram_pool
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.methods import nvidia
from kt_cli.core.model import Experts, Model
from kt_cli.core.plan import Item, Kind, Pool
from kt_cli.core.units import gb, params

LOGITS = 10
"""Bytes a logit takes at its worst: bf16, then fp32 with its gradient."""


@dataclass(frozen=True, slots=True)
class SftCase:
    machine: Machine
    model: Model
    facts: SftFacts
    cutoff: int | None = None

    def gpus(self, count: int) -> list[Gpu]:
        """Those with most free memory."""
        best = sorted(nvidia(self.machine), key=lambda g: (-g.free, g.index))[:count]
        return sorted(best, key=lambda g: g.index)


@dataclass(frozen=True, slots=True)
class SftChoice:
    form: SftFormat
    gpus: int
    tokens: int
    """Of the longest sample."""
    kept: bool
    """Activations stay in memory until the backward pass."""


def sft_pools(case: SftCase, choice: SftChoice) -> tuple[Pool, ...]:
    facts = case.facts
    on_gpu = tuple(_gpu_items(case, choice))
    gpus = [
        gpu_pool(g, on_gpu, facts.margin + int(g.memory * facts.margin_share))
        for g in case.gpus(choice.gpus)
    ]
    host = tuple(_host_items(case, choice))
    return (*gpus, ram_pool(case.machine, host, facts.host_margin))


# Each GPU


def _gpu_items(case: SftCase, choice: SftChoice) -> Iterator[Item]:
    model, count = case.model, choice.gpus
    shared = f" ÷ {count} GPUs" if count > 1 else ""
    vision = parameters_of(model, ("vision",))
    weights = computed_items(model, 2.0, "bf16")
    if vision:
        formula = f"{params(vision)} × 2 B (bf16)"
        weights.append(Item("vision", 2 * vision, formula, Kind.VISION))
    for item in weights:
        yield replace(item, bytes=-(-item.bytes // count), formula=item.formula + shared)
    yield _adapters(case)
    yield _activations(model, choice)
    logits = choice.tokens * model.vocab * LOGITS
    yield Item("logits", logits, f"{choice.tokens} tokens × {model.vocab} × {LOGITS} B")
    yield Item("CUDA context", case.facts.cuda_context, "context, cuBLAS and NCCL buffers")


def _adapters(case: SftCase) -> Item:
    """On every projection of attention: query, key, value, output."""
    a, model, facts = case.model.attention, case.model, case.facts
    query, key = a.heads * a.head_dim, a.kv_heads * a.head_dim
    sides = 2 * (model.hidden + query) + 2 * (model.hidden + key)
    count = model.layers * facts.rank * sides
    formula = f"{params(count)} × {facts.adapter} B, rank {facts.rank}"
    return Item("LoRA, optimizer", count * facts.adapter, formula)


def _activations(model: Model, choice: SftChoice) -> Item:
    row = _row(model)
    if choice.kept:
        formula = f"{choice.tokens} tokens × {model.layers} layers × {row} × 2 B"
        return Item("activations", 2 * choice.tokens * model.layers * row, formula)
    formula = f"{choice.tokens} tokens × ({model.layers} × {model.hidden} + {row}) × 2 B"
    return Item("activations", 2 * choice.tokens * (model.layers * model.hidden + row), formula)


def _row(model: Model) -> int:
    """Values of one layer that a token leaves for the backward pass: seven of the hidden width
    (inputs, norms, residuals), those of attention, and of the shared experts."""
    a, experts = model.attention, model.experts
    if a.kind == "mla":
        wide = a.heads * (2 * a.head_dim + (a.head_dim - a.rope_dim) + 2 * a.v_head_dim)
        attention = wide + 2 * (a.kv_lora_rank + a.rope_dim)
    else:
        attention = a.heads * (3 * a.head_dim + a.v_head_dim)
        attention += 2 * a.kv_heads * (a.head_dim + a.v_head_dim)
    layers = len(experts.layers) if experts else 0
    shared = parameters_of(model, ("shared_experts",)) // max(1, layers * model.hidden)
    return 7 * model.hidden + attention + shared


# The host


def _host_items(case: SftCase, choice: SftChoice) -> Iterator[Item]:
    facts, experts = case.facts, case.model.experts
    if experts:
        yield _frozen(experts, choice)
        count = len(experts.layers) * experts.count * facts.rank
        count *= 3 * (experts.hidden + experts.intermediate)
        formula = f"{params(count)} × {facts.expert_adapter} B, rank {facts.rank}"
        yield Item("LoRA, optimizer", count * facts.expert_adapter, formula)
        yield _expert_activations(experts, choice)
    size = facts.host_base + choice.gpus * facts.host_rank
    formula = f"{gb(facts.host_base)} + {choice.gpus} × {gb(facts.host_rank)}"
    yield Item("processes", size, formula)


def _frozen(experts: Experts, choice: SftChoice) -> Item:
    form, count = choice.form, experts.count * len(experts.layers)
    rows = 2 * experts.intermediate + experts.hidden
    each = int(experts.parameters_each * form.weight + rows * form.row_scale)
    return Item("experts", count * each, f"{count} × {gb(each)} ({form.name})", Kind.EXPERTS)


def _expert_activations(experts: Experts, choice: SftChoice) -> Item:
    """Input, gate, up and their product of every expert a token is sent to."""
    layers = len(experts.layers) if choice.kept else 1
    wide = experts.top_k * (experts.hidden + 3 * experts.intermediate)
    tokens = choice.tokens * choice.gpus
    size = 2 * tokens * layers * wide
    return Item("activations", size, f"{tokens} tokens × {layers} layers × {wide} × 2 B")
