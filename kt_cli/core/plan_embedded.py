"""Plan of the embedded engine: all on the CPU, or the experts there and the rest on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core import isa
from kt_cli.core.embedded_ledger import (
    Case,
    Choice,
    active_bytes,
    context_work,
    kv_of,
    pools_of,
)
from kt_cli.core.embedded_problems import SHORTEST_CONTEXT, impossible, memory_problems
from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.machine import Machine
from kt_cli.core.packing import decide, packed_before, packing_s
from kt_cli.core.plan import BODY, Decision, Item, Kind, Plan, Pool, Speed
from kt_cli.core.speed import Work, active_parameters, cpu_speed, prefill_share
from kt_cli.core.units import round_down


def plan_embedded(case: Case) -> Plan:
    choice, decisions = _decide(case)
    pools = pools_of(case, choice)
    problems = (*impossible(case, choice), *memory_problems(case, choice, pools))
    return Plan(
        model=case.model.name,
        path=case.model.path,
        machine=case.machine.name,
        engine="embedded",
        pools=pools,
        decisions=(*decisions, _packs(case, choice, pools)),
        problems=problems,
        speed=_speed(case, choice),
    )


# Decisions


def _decide(case: Case) -> tuple[Choice, tuple[Decision, ...]]:
    server = (
        case.wishes.settle("host", "host", "127.0.0.1", "this machine only"),
        case.wishes.settle("port", "port", 30000, "the usual one"),
        case.wishes.settle(
            "served_model_name", "served_model_name", case.model.name, "the model's name"
        ),
    )
    compute = _compute(case)
    value = {d.name: d.value for d in compute}
    draft = Choice(
        dtype=value["compute_dtype"],
        kv_dtype=value["kv_cache_dtype"],
        method=value["kt_method"],
        backend=value["compute_backend"],
        device=value["device"],
        context=0,
        requests=0,
        kv_tokens=0,
    )
    choice, sizes = _sizes(case, draft)
    return choice, (*server, *sizes, *compute)


def _compute(case: Case) -> tuple[Decision, ...]:
    """`dtype` and `experts_backend` stay `auto` for the engine unless asked for: it looks at the
    machine and at every layer itself, by the same rules."""
    machine, wishes = case.machine, case.wishes
    cores = f"physical cores this process may use{_narrowed(machine)}; hyper-threads would slow it"
    device = wishes.settle("device", "device", "cpu", "the embedded engine computes on the CPU")
    dtype, dtype_why = _dtype(machine, device.value)
    dtype = wishes.get("dtype") or dtype
    backend, backend_why = _backend(case, dtype)
    method, method_why = _method(case.facts, backend, dtype)
    rules = wishes.settle("rules", "rules", None, "the rules shipped for this kind of model")
    kv_why = "the compute type of attention"
    return (
        wishes.settle("cpu_threads", "cpu_threads", machine.threads, machine.held_back or cores),
        device,
        wishes.settle("dtype", "dtype", "auto", f"{dtype}: {dtype_why}"),
        Decision("compute_dtype", dtype, dtype_why),
        wishes.settle("kv_cache_dtype", "kv_cache_dtype", dtype, kv_why),
        wishes.settle("experts_backend", "experts_backend", "auto", f"{backend}: {backend_why}"),
        Decision("compute_backend", backend, backend_why),
        *_variant(case, backend),
        wishes.settle("kt_method", "kt_method", method, method_why),
        rules,
    )


def _backend(case: Case, dtype: str) -> tuple[str, str]:
    """What the engine's `auto` takes, or what was asked for."""
    model, asked = case.model, case.wishes.get("experts_backend")
    if asked:
        return asked, "asked for"
    kernels = case.machine.engine("kt_moe")
    strange = next((n for n in case.facts.torch_only if model.architecture.startswith(n)), "")
    if strange:
        return "torch", case.facts.torch_only[strange]
    if model.experts and model.experts.activation not in case.facts.activations:
        return "torch", f"our kernels have no {model.experts.activation}"
    if kernels is None or kernels.problem or kernels.details.get("available") == "False":
        return "torch", "our CPU kernels are not here"
    if not isa.variant(case.machine.cpu.isa):
        return "torch", "our kernels need AVX2"
    if dtype == "fp32" and case.wishes.get("dtype") and not case.wishes.get("kt_method"):
        return "torch", "our kernels keep no fp32 weights"
    return "kt_moe", "our CPU kernels"


def _variant(case: Case, backend: str) -> Iterator[Decision]:
    """Of the kernels: as they said where they were loaded, else by the CPU's features."""
    if backend == "kt_moe":
        engine, cpu = case.machine.engine("kt_moe"), case.machine.cpu
        said = engine.details.get("variant") if engine else ""
        why = f"{isa.VARIABLE} allows no more" if cpu.withheld else "the best that this CPU runs"
        yield Decision("isa", said or isa.variant(cpu.isa), why)


def _narrowed(machine: Machine) -> str:
    cpu = machine.cpu
    if cpu.physical_cores == cpu.total_cores:
        return ""
    return f" ({cpu.why or 'of ' + str(cpu.total_cores)})"


def _dtype(machine: Machine, device: str) -> tuple[str, str]:
    cpu = machine.cpu
    if device.startswith("cuda"):
        return "bf16", "the GPU multiplies bf16 at full rate"
    if isa.multiplies_bf16(cpu.isa):
        return "bf16", "this CPU multiplies bf16 in hardware"
    if isa.multiplies_bf16(cpu.withheld):
        return "fp32", f"{isa.VARIABLE} leaves this CPU's bf16 arithmetic unused"
    return "fp32", "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX); bf16 would be far slower"


def _method(facts: EmbeddedFacts, backend: str, dtype: str) -> tuple[str, str]:
    if backend == "torch":
        return dtype.upper(), "torch's operator computes experts in the compute type"
    return next(iter(facts.methods)), "as exact as the checkpoint"


def _sizes(case: Case, draft: Choice) -> tuple[Choice, tuple[Decision, ...]]:
    wishes, facts, model = case.wishes, case.facts, case.model
    requests = wishes.get("max_running_requests") or facts.requests
    whole = min(model.context or facts.context, facts.context)
    context = wishes.get("ctx_size") or whole
    held = wishes.get("max_total_tokens")
    room = _room(case, replace(draft, requests=requests), context_work(case, draft))
    why = f"the model's own limit is {model.context}"
    if not wishes.fixed("ctx_size") and (held or room) < context:
        context, why = _shorter(context, held or room), f"what memory holds; {why}"
    tokens_why = "every request at its full context"
    if held is None:
        held = context * requests
        room = _room(case, replace(draft, requests=requests, context=context))
        if room < held:
            held = max(context, round_down(room, 256))
            tokens_why = "what memory holds; requests share it"
    choice = replace(draft, context=context, requests=requests, kv_tokens=held)
    reason = "a small team at once"
    return choice, (
        wishes.settle("context", "ctx_size", context, why),
        wishes.settle("max_running_requests", "max_running_requests", requests, reason),
        wishes.settle("kv_tokens", "max_total_tokens", held, tokens_why),
    )


def _shorter(context: int, room: int) -> int:
    """The longest context of whole 256 tokens that the room holds, not below the shortest."""
    return min(context, max(SHORTEST_CONTEXT, round_down(room, 256)))


def _packs(case: Case, choice: Choice, pools: tuple[Pool, ...]) -> Decision:
    size = sum(i.bytes for pool in pools for i in pool.items if i.kind is Kind.EXPERTS)
    return decide(case, choice, size, case.threads())


def _room(case: Case, choice: Choice, work: int = 0) -> int:
    """Tokens of KV cache that fit, with `work` bytes more for each.

    The cache takes the place of what only loading needs.
    """
    pool = pools_of(case, choice)[0]
    left = max(0, pool.left + sum(i.bytes for i in pool.items if i.kind is Kind.LOADING))
    cost = kv_of(case, choice)
    return left // max(1, cost.token + cost.window + work)


# Speed


def _speed(case: Case, choice: Choice) -> Speed:
    facts = case.facts
    threads = case.threads()
    work = Work(
        bytes=active_bytes(case.model, choice, facts) + kv_of(case, choice).token * facts.typical,
        flops=2.0 * active_parameters(case.model) * prefill_share(case.model),
        weights=sum(i.bytes for p in pools_of(case, choice) for i in p.items if _is_weight(i)),
        checkpoint=case.model.total_bytes,
        kind=choice.dtype,
        packing_s=packing_s(case, choice, threads),
    )
    if packed_before(case, choice):
        work = _mapped(case, choice, work)
    return cpu_speed(case.machine, work, threads, facts)


def _mapped(case: Case, choice: Choice, work: Work) -> Work:
    """Experts are read as they were packed, and while the model serves already."""
    size = case.facts.packed[choice.method][1]
    routed = case.model.bytes.get("routed_experts", 0)
    return replace(work, weights=work.weights - size, checkpoint=work.checkpoint - routed)


def _is_weight(item: Item) -> bool:
    return item.kind is Kind.EXPERTS or item.kind in BODY
