"""Plan of the embedded engine: all on the CPU, or the experts there and the rest on one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.fixes import WayOut, means_nothing, ways_out
from kt_cli.core.kv import KvCost, kv_cost
from kt_cli.core.ledger import (
    GROUPS,
    computed_items,
    expert_item,
    gpu_pool,
    missing,
    parameters_of,
    ram_pool,
    sum_text,
)
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model, TensorClass
from kt_cli.core.plan import Decision, Fix, Item, Plan, Pool, Problem, Speed
from kt_cli.core.speed import Work, active_parameters, cpu_speed
from kt_cli.core.units import DTYPE_BYTES, gb, round_down, tokens
from kt_cli.core.wishes import Wishes

SHORTEST_CONTEXT = 2048
"""No context is shortened below this without being asked."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The values the ledger depends on."""

    dtype: str
    kv_dtype: str
    method: str
    backend: str
    device: str
    context: int
    requests: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Case:
    """What a plan is made from."""

    machine: Machine
    model: Model
    wishes: Wishes
    facts: EmbeddedFacts

    def gpu(self, device: str) -> Gpu | None:
        """The GPU that `cuda` or `cuda:1` means; None for the CPU or a GPU that is not there."""
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return None
        wanted = int(index) if index.isdigit() else 0
        return next((g for g in self.machine.gpus if g.index == wanted), None)


def plan_embedded(case: Case) -> Plan:
    choice, decisions = _decide(case)
    pools = pools_of(case, choice)
    problems = (*_impossible(case, choice), *_problems(case, choice, pools))
    return Plan(
        model=case.model.name,
        path=case.model.path,
        machine=case.machine.name,
        engine="embedded",
        pools=pools,
        decisions=decisions,
        problems=problems,
        speed=_speed(case, choice),
    )


# The ledger


def pools_of(case: Case, choice: Choice) -> tuple[Pool, ...]:
    facts, model = case.facts, case.model
    base = Item("Python, torch", facts.base_bytes, "resident before any weight")
    body = [*computed_items(model, _width(choice.dtype), choice.dtype), *_cache(case, choice)]
    experts = expert_item(model, _expert_width(facts, choice), _expert_form(choice))
    held = [experts] if experts else []
    gpu = case.gpu(choice.device)
    if gpu is None:
        return (ram_pool(case.machine, [base, *held, *body], facts.margin_bytes),)
    context = Item("CUDA context", facts.gpu_context_bytes, "driver and cuBLAS workspaces")
    return (
        gpu_pool(gpu, [context, *body], facts.margin_bytes),
        ram_pool(case.machine, [base, *held], facts.margin_bytes),
    )


def _cache(case: Case, choice: Choice) -> list[Item]:
    cost = _kv(case, choice)
    size = cost.total(choice.kv_tokens, choice.requests)
    kv = Item("KV cache", size, f"{choice.kv_tokens} tokens × {cost.formula}")
    return [kv, _workspace(case, choice)]


def _kv(case: Case, choice: Choice) -> KvCost:
    width = _width(choice.kv_dtype)
    return kv_cost(case.model.attention, width, latent=case.facts.latent_kv)


def _workspace(case: Case, choice: Choice) -> Item:
    """Activations of one chunk in fp32 and the logits of a batch."""
    model, attention = case.model, case.model.attention
    experts = model.experts
    inner = max(model.intermediate, experts.top_k * experts.intermediate if experts else 0)
    row = 8 * model.hidden + 4 * attention.heads * attention.head_dim + 3 * inner
    size = case.facts.chunk * row * 4 + choice.requests * model.vocab * 8
    formula = f"{case.facts.chunk} tokens × {row} values × 4 B + logits"
    return Item("workspace", size, formula)


def _width(dtype: str) -> float:
    return DTYPE_BYTES[dtype]


def _expert_width(facts: EmbeddedFacts, choice: Choice) -> float:
    """torch's operator holds experts in the compute type, `kt_moe` in their own format."""
    if choice.backend == "torch":
        return _width(choice.dtype)
    return facts.methods.get(choice.method, DTYPE_BYTES["bf16"])


def _expert_form(choice: Choice) -> str:
    return choice.dtype if choice.backend == "torch" else choice.method


# Decisions


def _decide(case: Case) -> tuple[Choice, tuple[Decision, ...]]:
    server = (
        case.wishes.settle("host", "host", "127.0.0.1", "this machine only"),
        case.wishes.settle("port", "port", 30000, "the usual one"),
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
    allowed = machine.cpu.physical_cores
    why = f"physical cores this process may use{_narrowed(machine)}; hyper-threads would slow it"
    device = wishes.settle("device", "device", "cpu", "the embedded engine computes on the CPU")
    dtype, dtype_why = _dtype(machine, device.value)
    dtype = wishes.get("dtype") or dtype
    backend, backend_why = _backend(case, dtype)
    method, method_why = _method(case.facts, backend, dtype)
    rules = wishes.settle("rules", "rules", None, "the rules shipped for this kind of model")
    kv_why = "the compute type of attention"
    return (
        wishes.settle("cpu_threads", "cpu_threads", allowed, why),
        device,
        wishes.settle("dtype", "dtype", "auto", f"{dtype}: {dtype_why}"),
        Decision("compute_dtype", dtype, dtype_why),
        wishes.settle("kv_cache_dtype", "kv_cache_dtype", dtype, kv_why),
        wishes.settle("experts_backend", "experts_backend", "auto", f"{backend}: {backend_why}"),
        Decision("compute_backend", backend, backend_why),
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
    if kernels is None or kernels.problem:
        return "torch", "our CPU kernels are not here"
    if dtype == "fp32" and case.wishes.get("dtype"):
        return "torch", "our kernels keep no fp32 weights"
    return "kt_moe", "our CPU kernels"


def _narrowed(machine: Machine) -> str:
    cpu = machine.cpu
    if cpu.physical_cores == cpu.total_cores:
        return ""
    return f" ({cpu.why or 'of ' + str(cpu.total_cores)})"


def _dtype(machine: Machine, device: str) -> tuple[str, str]:
    cpu = machine.cpu
    if device.startswith("cuda"):
        return "bf16", "the GPU multiplies bf16 at full rate"
    if cpu.has("avx512_bf16") or cpu.has("amx_bf16"):
        return "bf16", "this CPU multiplies bf16 in hardware"
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
    room = _room(case, replace(draft, requests=requests))
    why = f"the model's own limit is {model.context}"
    if not wishes.fixed("ctx_size") and (held or room) < context:
        context, why = _shorter(context, held or room), f"what memory holds; {why}"
    tokens_why = "every request at its full context"
    if held is None:
        held = context * requests
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


def _room(case: Case, choice: Choice) -> int:
    """Tokens of KV cache that fit beside all else."""
    left = max(0, pools_of(case, choice)[0].left)
    cost = _kv(case, choice)
    return left // max(1, cost.token + cost.window)


# Problems


SGLANG_ONLY = (
    "numa_nodes",
    "gpu_experts",
    "tp",
    "mem_fraction",
    "chunked_prefill_size",
    "gpu_prefill_threshold",
    "deferred_experts",
    "attention_backend",
    "weights_path",
)


def _impossible(case: Case, choice: Choice) -> Iterator[Problem]:
    foreign = case.wishes.foreign(SGLANG_ONLY)
    if foreign:
        yield means_nothing(foreign, "the embedded engine", "SGLang")
    if choice.kv_dtype != choice.dtype:
        why = "attention and cache share one type"
        fix = Fix(f"a cache in {choice.dtype}", "runs", f"--kv-cache-dtype {choice.dtype}")
        yield Problem(f"no cache in {choice.kv_dtype} beside {choice.dtype}", why, fixes=(fix,))
    stored = case.model.quantization.method
    if stored not in case.facts.reads:
        fix = Fix("a BF16 checkpoint of the model", "runs", "")
        why = f"the embedded engine reads {', '.join(case.facts.reads)} weights only"
        yield Problem(f"{case.model.name} is stored as {stored}", why, fixes=(fix,))
    if choice.device != "cpu" and case.gpu(choice.device) is None:
        have = ", ".join(f"cuda:{g.index}" for g in case.machine.gpus) or "no GPU"
        yield Problem(f"device {choice.device} is not there", f"this machine has {have}")
    if case.wishes.fixed("kt_method") and choice.method not in case.facts.methods:
        names = ", ".join(case.facts.methods)
        why = f"its formats: {names}"
        yield Problem(f"the embedded engine has no expert format {choice.method}", why)
    if case.model.context and choice.context > case.model.context:
        limit = case.model.context
        why = f"the model knows positions up to {limit}"
        yield Problem(f"context {choice.context} is more than the model can do", why)
    if choice.kv_tokens < min(choice.context, case.model.context or choice.context):
        why = f"the KV cache holds {choice.kv_tokens} tokens, a request may have {choice.context}"
        yield Problem("a request of full length could never run", why, "warning")


def _problems(case: Case, choice: Choice, pools: tuple[Pool, ...]) -> Iterator[Problem]:
    for pool in pools:
        short = missing(pool)
        if short:
            what = f"{case.model.name} does not fit in {pool.name} by {gb(short)}"
            fixes = ways_out(short, _ways(case, choice, pool.name), pool.name)
            yield Problem(what, f"{pool.name} {sum_text(pool)}", fixes=fixes)
        elif pool.left < 0:
            busy = f"{gb(-pool.left)} of {pool.name} must be freed by other programs first"
            why = f"needs {gb(pool.used + pool.margin)}, {gb(pool.free)} is free now"
            yield Problem(busy, why, "warning")


def _ways(case: Case, choice: Choice, pool: str) -> Iterator[WayOut]:
    for action, flag, changed in _changes(case, choice):
        after = next(p for p in pools_of(case, changed) if p.name == pool)
        yield WayOut(action, flag, missing(after))


def _changes(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    """Cheapest first: what costs little use, then what costs accuracy."""
    if choice.kv_tokens > choice.context:
        smaller = replace(choice, kv_tokens=choice.context)
        yield (
            f"KV cache of {choice.context} tokens",
            f"--max-total-tokens {choice.context}",
            smaller,
        )
    yield from _contexts(case, choice)
    if choice.dtype == "fp32" and choice.backend == "torch":
        narrow = replace(choice, dtype="bf16", kv_dtype="bf16")
        yield "fp32 → bf16 (slow on this CPU)", "--dtype bf16", narrow
    yield from _formats(case, choice)


def _contexts(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    """The longest shorter context that fits, else the shortest."""
    context = choice.context
    while context > SHORTEST_CONTEXT:
        context = max(SHORTEST_CONTEXT, round_down(context // 2, 256))
        shorter = replace(choice, context=context, kv_tokens=context)
        if context == SHORTEST_CONTEXT or not any(map(missing, pools_of(case, shorter))):
            flag = f"--ctx-size {context}"
            if case.wishes.fixed("max_total_tokens"):
                flag += f" --max-total-tokens {context}"
            yield f"context {tokens(choice.context)} → {tokens(context)}", flag, shorter
            return


def _formats(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    if choice.backend == "torch":
        return
    methods = list(case.facts.methods)
    after = methods[methods.index(choice.method) + 1 :] if choice.method in methods else []
    for method in after:
        changed = replace(choice, method=method)
        yield f"{choice.method} → {method}", f"--kt-method {method}", changed


# Speed


def _speed(case: Case, choice: Choice) -> Speed:
    facts = case.facts
    threads = case.wishes.get("cpu_threads") or case.machine.cpu.physical_cores
    work = Work(
        bytes=active_bytes(case.model, choice, facts) + _kv(case, choice).token * facts.typical,
        flops=2.0 * active_parameters(case.model),
        weights=sum(i.bytes for p in pools_of(case, choice) for i in p.items if _is_weight(i)),
        checkpoint=case.model.total_bytes,
        kind=choice.dtype,
    )
    return cpu_speed(case.machine, work, threads, facts)


def _is_weight(item: Item) -> bool:
    return item.name == "experts" or item.name in GROUPS


def active_bytes(model: Model, choice: Choice, facts: EmbeddedFacts) -> float:
    """Bytes of weights one decoded token reads: the head but not the embedding, top-k experts."""
    tied = not parameters_of(model, ("lm_head",))
    head: TensorClass = "embedding" if tied else "lm_head"
    read: tuple[TensorClass, ...] = (
        *("attention", "dense_mlp", "shared_experts", "router", "norm", "other"),
        head,
    )
    routed = parameters_of(model, ("routed_experts",))
    share = model.experts.top_k / model.experts.count if model.experts else 0.0
    dense = parameters_of(model, read) * _width(choice.dtype)
    return dense + routed * share * _expert_width(facts, choice)
