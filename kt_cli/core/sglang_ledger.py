"""The ledger of SGLang with CPU experts: each GPU, each NUMA node, the disk.

Formulas are those of sglang-kt 0.7.2: every rank holds its share of the non-expert weights and of
the GPU experts; kt-kernel holds all experts in RAM, those on the GPU too, split over its pools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.kv import KvCost, kv_cost
from kt_cli.core.ledger import GROUPS, capped, freed, gpu_pool, kind_of, spread
from kt_cli.core.machine import Gpu, NumaNode
from kt_cli.core.methods import cpu_expert_bytes, expert_bytes
from kt_cli.core.model import Attention, Experts, Model
from kt_cli.core.plan import Item, Kind, Pool
from kt_cli.core.sglang_choice import (
    SglangCase,
    SglangChoice,
    attention_kernels,
    prefill_threshold,
)
from kt_cli.core.sglang_kv import kv_items
from kt_cli.core.units import DTYPE_BYTES, gb

WHOLE = ("router, norms", "vision")
"""Groups of weights that every rank holds whole; the others are split."""
STEP = 32
"""Rows kt-kernel pads each expert's share of a chunk to."""


def pools_of(case: SglangCase, choice: SglangChoice) -> tuple[Pool, ...]:
    return (*gpu_pools(case, choice), *node_pools(case, choice))


# The GPU


def gpu_pools(case: SglangCase, choice: SglangChoice) -> tuple[Pool, ...]:
    gpus = case.cards(choice)
    return tuple(_gpu(case, choice, gpu, rank) for rank, gpu in enumerate(gpus))


def _gpu(case: SglangCase, choice: SglangChoice, gpu: Gpu, rank: int) -> Pool:
    facts = case.facts
    items = [
        *weight_items(case.model, choice.tp),
        *_drafter(case, choice.tp),
        *_adapter(case, choice.tp),
        *_experts(case, choice, rank),
        *kv_items(case, choice),
        *_dynamic(case, choice),
        *_libraries(case, choice),
    ]
    pool = gpu_pool(gpu, items, facts.margin + int(gpu.memory * facts.margin_share))
    return replace(pool, hard=True)


def _libraries(case: SglangCase, choice: SglangChoice) -> Iterator[Item]:
    facts = case.facts
    size, formula = facts.cuda_context, "context, cuBLAS and smaller buffers"
    if choice.tp > 1:
        size, formula = size + facts.nccl, f"{gb(size)} + NCCL {gb(facts.nccl)}"
    yield Item("CUDA context", size, formula)
    asked = case.wishes.get("attention_backend")
    if (asked or attention_kernels(case, choice)[0]) == "flashinfer":
        yield Item("FlashInfer", facts.flashinfer, "its workspace")


def weight_items(model: Model, tp: int) -> Iterator[Item]:
    for name, classes in GROUPS.items():
        size = sum(model.bytes.get(c, 0) for c in classes)
        if not size or name == "draft":
            continue
        if name in WHOLE or tp == 1:
            how = gb(size) + (", whole on each GPU" if tp > 1 else "")
            yield Item(name, size, how, kind_of(name))
        elif name == "attention" and model.attention.kind == "mla":
            yield _latent_attention(model, size, tp)
        elif name == "attention":
            yield _grouped_attention(model, size, tp)
        else:
            yield Item(name, -(-size // tp), f"{gb(size)} ÷ tp {tp}", kind_of(name))
    if model.attention.kind == "mla":
        yield _absorbed(model, tp)


def _drafter(case: SglangCase, tp: int) -> Iterator[Item]:
    """Draft layers with their experts, where speculation is asked for; else they are not loaded."""
    size = case.model.bytes.get("draft", 0)
    if size and case.wishes.get("speculative_algorithm"):
        formula = gb(size) + (f" ÷ tp {tp}" if tp > 1 else "")
        yield Item("draft", -(-size // tp), formula, Kind.DRAFT)


def _latent_attention(model: Model, size: int, tp: int) -> Item:
    """The down-projections of MLA and the indexer stay whole on each rank."""
    whole = int(size * _whole_share(model))
    formula = f"{gb(whole)} + rest ÷ tp {tp}"
    return Item("attention", whole + -(-(size - whole) // tp), formula, Kind.WEIGHTS)


def _whole_share(model: Model) -> float:
    total = model.parameters.get("attention", 0)
    return min(1.0, model.attention.whole_parameters / total) if total else 0.0


def _grouped_attention(model: Model, size: int, tp: int) -> Item:
    """Key and value heads are copied where there are more GPUs than heads."""
    a, total = model.attention, model.parameters.get("attention", 0)
    copied = _copied_parameters(a, tp) * model.hidden + a.whole_parameters * (tp - 1)
    more = size * min(copied, total * (tp - 1)) // total if total else 0
    copies = f", {gb(more)} more for copies" if more else ""
    return Item("attention", -(-(size + more) // tp), f"{gb(size)} ÷ tp {tp}{copies}", Kind.WEIGHTS)


def _copied_parameters(a: Attention, tp: int) -> int:
    """Of all GPUs beyond the first copy, for each value of a token that is projected."""
    near = a.kv_heads * (a.head_dim + a.v_head_dim) * (max(1, tp // a.kv_heads) - 1)
    if not a.global_kv_heads:
        return (a.full_layers + a.window_layers) * near
    wide = 2 * a.global_kv_heads * (a.global_head_dim or a.head_dim)
    return a.window_layers * near + a.full_layers * wide * (max(1, tp // a.global_kv_heads) - 1)


def _absorbed(model: Model, tp: int) -> Item:
    """SGLang keeps bf16 copies of MLA's up-projection for the absorbed form."""
    a = model.attention
    width = a.head_dim - a.rope_dim + a.v_head_dim
    size = a.full_layers * a.kv_lora_rank * (a.heads // tp) * width * 2
    formula = f"{a.full_layers} layers × {a.kv_lora_rank}·{a.heads // tp}·{width}·2 B"
    return Item("absorbed MLA", size, formula, Kind.ABSORBED)


def gpu_expert_bytes(model: Model, tp: int) -> int:
    """One expert on one GPU, in the checkpoint's own format."""
    experts = model.experts
    if not experts:
        return 0
    held = experts.count * len(experts.layers)
    return -(-model.bytes.get("routed_experts", 0) // (held * tp))


def _experts(case: SglangCase, choice: SglangChoice, rank: int) -> Iterator[Item]:
    model, experts = case.model, case.model.experts
    if not experts:
        return
    each = gpu_expert_bytes(model, choice.tp)
    if choice.experts:
        layers = len(experts.layers)
        formula = f"{choice.experts} × {layers} layers × {gb(each)}"
        yield Item("GPU experts", choice.experts * layers * each, formula, Kind.EXPERTS)
    if choice.method and rank == 0:
        size = choice.chunk * model.hidden * 2
        formula = f"{choice.chunk} tokens × {model.hidden} × 2 B"
        yield Item("staging", size, formula, Kind.STAGING)
    method = case.method(choice.method)
    if choice.slot and method:
        size = method.slots * experts.count * each
        formula = f"{method.slots} × {experts.count} experts × {gb(each)}"
        if choice.tp == 1:
            size += case.facts.nccl
            formula += f" + NCCL {gb(case.facts.nccl)}"
        yield Item("prefill slot", size, formula, Kind.SLOT)


def _adapter(case: SglangCase, tp: int) -> Iterator[Item]:
    if case.adapter and case.adapter.others:
        size, split = case.adapter.others, f" ÷ tp {tp}" if tp > 1 else ""
        formula = f"{gb(size)}, rank {case.adapter.rank}{split}"
        yield Item("LoRA", -(-size // tp), formula, Kind.ADAPTER)


def kv_of(case: SglangCase, choice: SglangChoice) -> KvCost:
    """What a token reads of the cache, which is less than the pools take."""
    return kv_cost(case.model.attention, DTYPE_BYTES[choice.kv_dtype], choice.tp)


def _dynamic(case: SglangCase, choice: SglangChoice) -> Iterator[Item]:
    facts = case.facts
    row, formula = _row(case.model, choice)
    logits = choice.requests * case.model.vocab * 8
    size = choice.chunk * row * 2 + logits
    formula = f"{choice.chunk} tokens × {formula} × 2 B + logits"
    yield Item("workspace", size, formula, Kind.WORKSPACE)
    if case.tuned_experts:
        return
    graphs = facts.graphs + choice.requests * facts.graph_request
    yield Item("CUDA graphs", graphs, f"{gb(facts.graphs)} + {choice.requests} requests × 2 MiB")


def _row(model: Model, choice: SglangChoice) -> tuple[int, str]:
    """Values alive for each token of a chunk at the worst moment of a layer."""
    a, experts, tp = model.attention, model.experts, choice.tp
    heads = -(-a.heads // tp)
    if a.kind == "mla":
        attention = heads * (2 * a.kv_lora_rank + a.rope_dim + a.head_dim + a.v_head_dim)
    else:
        attention = 2 * (heads + -(-a.kv_heads // tp)) * (a.head_dim + max(a.v_head_dim, 1))
    inner = 3 * -(-model.intermediate // tp)
    if experts and (choice.experts or choice.slot):
        part = -(-experts.intermediate // tp)
        inner = max(inner, experts.top_k * (part + max(2 * part, model.hidden)))
    row = 6 * model.hidden + max(attention, inner)
    return row, f"(6·{model.hidden} + {max(attention, inner)})"


# The host


def node_pools(case: SglangCase, choice: SglangChoice) -> tuple[Pool, ...]:
    """One for each node that experts are on, and for those that SGLang's processes spread to."""
    memory, known = case.machine.memory, {n.id: n for n in case.machine.nodes}
    used = [known[i] for i in choice.nodes if i in known]
    held = tuple(_host_experts(case, choice, max(1, len(used))))
    margin = case.facts.host_margin // max(1, len(used))
    pools = [_node_pool(n, held if n in used else (), margin if n in used else 0)
             for n in _used_first(case, used)]  # fmt: skip
    pools = spread(pools, tuple(_host_common(case, choice)))
    needed = [p for p in pools if p.items]
    needed = capped(needed, memory.usable)
    return tuple(sorted(freed(needed, memory.available), key=lambda p: p.name))


def _used_first(case: SglangCase, used: list[NumaNode]) -> list[NumaNode]:
    return [*used, *(n for n in case.machine.nodes if n.memory and n not in used)]


def _node_pool(node: NumaNode, items: tuple[Item, ...], margin: int) -> Pool:
    label = f"{len(node.cpus)} CPUs"
    return Pool(f"node{node.id}", node.memory, min(node.free, node.memory), items, margin, label)


def _host_experts(case: SglangCase, choice: SglangChoice, pools: int) -> Iterator[Item]:
    experts, method = case.model.experts, case.method(choice.method)
    if not experts or not method:
        return
    each = expert_bytes(method, case.model)
    count = experts.count * len(experts.layers)
    split = f" ÷ {pools} nodes" if pools > 1 else ""
    size = -(-cpu_expert_bytes(method, case.model) // pools)
    formula = f"{count} × {gb(each)} ({method.name}){split}"
    yield Item("experts", size, formula, Kind.EXPERTS)
    if case.adapter and case.adapter.experts:
        size, rank = case.adapter.experts, case.adapter.rank
        formula = f"{gb(size)}, rank {rank}{split}"
        yield Item("LoRA", -(-size // pools), formula, Kind.ADAPTER)
    yield _scratch(experts, _cpu_tokens(case, choice), pools)


def _cpu_tokens(case: SglangCase, choice: SglangChoice) -> int:
    """The most tokens at once that the CPU computes: longer prompts go to the slot."""
    if not choice.slot:
        return choice.chunk
    asked = case.wishes.get("gpu_prefill_threshold")
    return min(asked or prefill_threshold(case, choice), choice.chunk)


def _scratch(e: Experts, tokens: int, pools: int) -> Item:
    """What kt-kernel touches of the buffers of one pool, which its layers share."""
    wide, part = tokens * e.top_k, e.intermediate // pools
    rows = wide + STEP * e.count
    size = 4 * wide * (e.hidden + part) + rows * (2 * e.hidden + 10 * part + 4 * e.hidden + 320)
    formula = f"{rows} rows of {e.top_k} experts for {tokens} tokens"
    return Item("CPU scratch", size, formula, Kind.SCRATCH)


def _host_common(case: SglangCase, choice: SglangChoice) -> Iterator[Item]:
    facts, experts = case.facts, case.model.experts
    size = facts.host_base + choice.tp * facts.host_rank
    formula = f"{gb(facts.host_base)} + {choice.tp} × {gb(facts.host_rank)}"
    yield Item("SGLang processes", size, formula)
    if experts and case.method(choice.method):
        yield _pinned(case, experts, choice)


def _pinned(case: SglangCase, experts: Experts, choice: SglangChoice) -> Item:
    """kt-kernel's two sets of buffers, and for the slot two experts in /dev/shm and NCCL's part."""
    tokens, row = _cpu_tokens(case, choice), 2 * (4 * case.model.hidden + 20 * experts.top_k)
    size, formula = tokens * row, f"{tokens} tokens × {row} B"
    if choice.slot:
        size += 2 * gpu_expert_bytes(case.model, 1) * choice.tp + case.facts.nccl_host
        formula += f" + 2 experts × {choice.tp} GPUs + NCCL {gb(case.facts.nccl_host)}"
    return Item("pinned", size, formula, Kind.PINNED)
