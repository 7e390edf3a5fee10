"""Plan of SGLang with experts on the CPU: what is decided, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kt_cli.core.methods import cpu_expert_bytes, nvidia, splits, usable
from kt_cli.core.plan import Decision, Plan, Problem
from kt_cli.core.sglang_choice import (
    SglangCase,
    SglangChoice,
    attention_kernels,
    prefill_threshold,
    tp_values,
)
from kt_cli.core.sglang_draft import converted, draft, method_why, threads_why
from kt_cli.core.sglang_kv import asked_tokens, state_slots
from kt_cli.core.sglang_ledger import pools_of
from kt_cli.core.sglang_problems import problems_of
from kt_cli.core.sglang_search import best, short
from kt_cli.core.sglang_solve import fraction, solve, target_context
from kt_cli.core.sglang_speed import sglang_speed
from kt_cli.core.units import gb


def plan_sglang(case: SglangCase, *, alternatives: bool = False) -> Plan:
    choice = best(case)
    problems = problems_of(case, choice)
    if alternatives and not problems:
        problems = tuple(_alternatives(case, choice))
    return Plan(
        model=case.model.name,
        path=case.model.path,
        machine=case.machine.name,
        engine="sglang",
        pools=pools_of(case, choice),
        decisions=_decisions(case, choice),
        problems=problems,
        speed=sglang_speed(case, choice),
    )


def _alternatives(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    """What a conversion of the experts would change; it is never chosen by itself."""
    if not choice.method or case.wishes.fixed("kt_method") or case.tuned_experts:
        return
    for method in usable(case.model, case.machine, case.facts):
        if not method.automatic or not converted(case, method.name):
            continue
        other = solve(case, draft(case, method.name, choice.gpus))
        speed = sglang_speed(case, other).decode
        if short(case, other) or speed is None:
            continue
        what = f"after a conversion to {method.name}: decode {speed.low:.3g}–{speed.high:.3g} tok/s"
        size = gb(cpu_expert_bytes(method, case.model))
        why = f"its experts take {size} of RAM and are rounded: `--kt-method {method.name}`"
        yield Problem(what, why, "info")


# Decisions


def _decisions(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    return (
        *_server(case),
        *_sizes(case, choice),
        *_cpu(case, choice),
        *_gpu(case, choice),
        *_lora(case),
        *_hinted(case, choice),
    )


def _server(case: SglangCase) -> tuple[Decision, ...]:
    settle = case.wishes.settle
    return (
        settle("host", "host", "127.0.0.1", "this machine only"),
        settle("port", "port", 30000, "the usual one"),
        settle("served_model_name", "served_model_name", case.model.name, "the model's name"),
    )


def _sizes(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    settle, limit = case.wishes.settle, case.model.context
    full = choice.context >= target_context(case)
    reached = "longer ones on request" if choice.context < limit else "all of it"
    why = f"the model knows {limit}; {reached if full else 'GPU memory holds no more'}"
    side = max(0, choice.kv_tokens - choice.context)
    tokens_why = f"one request of full length and {side} tokens for the others"
    return (
        settle("context", "ctx_size", choice.context, why),
        settle("max_running_requests", "max_running_requests", choice.requests, "a small team"),
        settle("kv_tokens", "max_total_tokens", choice.kv_tokens, tokens_why),
        *_pools(case, choice),
        settle("kv_cache_dtype", "kv_cache_dtype", choice.kv_dtype, _kv_why(choice)),
    )


def _pools(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    """What SGLang must be told for its pools to hold what was promised."""
    found = []
    asked, states = asked_tokens(case, choice), state_slots(case, choice)
    if asked != choice.kv_tokens:
        share = case.facts.window_share
        why = f"its windowed layers keep {share:g} of all tokens, so fewer make room for as many"
        found.append(Decision("pool_tokens", asked, why))
    if states:
        why = f"{case.facts.state_slots} states for each request; left alone, states take 47 %"
        found.append(Decision("state_slots", states, why))
    a = case.model.attention
    if a.kind == "mla" and a.index_head_dim and choice.kv_dtype == "bf16":
        why = "left to itself SGLang takes fp8 for sparse attention on Blackwell"
        found.append(Decision("kv_pool_dtype", "bf16", why))
    return tuple(found)


def _cpu(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    settle, why = case.wishes.settle, method_why(case, choice.method)
    if not choice.method:
        reason = "every expert is on the GPU" if choice.experts else why
        return (Decision("kt_method", None, reason),)
    return (
        settle("kt_method", "kt_method", choice.method, why),
        _weights(case, choice),
        settle("cpu_threads", "cpu_threads", choice.threads, threads_why(case, choice)),
        Decision("threadpool_count", len(choice.nodes), _pool_why(case, choice)),
        settle("numa_nodes", "numa_nodes", choice.nodes, "those with cores and memory for it"),
        settle(
            "deferred_experts",
            "deferred_experts",
            0,
            "exact results; 2 to 4 overlap CPU and GPU better and change results a little",
        ),
    )


def _weights(case: SglangCase, choice: SglangChoice) -> Decision:
    method = case.method(choice.method)
    native = method is not None and case.model.quantization.method in method.reads
    if native:
        why = "experts are read from the checkpoint itself"
        return case.wishes.settle("weights_path", "weights_path", case.model.path, why)
    how = method.prepare if method else ""
    return case.wishes.settle("weights_path", "weights_path", None, f"first: {how}")


def _kv_why(choice: SglangChoice) -> str:
    return "SGLang keeps this attention in fp8 only" if choice.kv_dtype == "fp8" else "exact"


def _pool_why(case: SglangCase, choice: SglangChoice) -> str:
    nodes, count = len(case.machine.worker_nodes), len(choice.nodes)
    experts, method = case.model.experts, case.method(choice.method)
    if case.wishes.get("numa_nodes") is not None or count == nodes:
        return "one pool of threads for each NUMA node"
    if experts and method and not splits(experts, method, nodes):
        width = experts.intermediate
        return f"width {width} does not split over {nodes} nodes in the method's blocks"
    return (
        f"of {nodes} nodes; each pool holds an equal part, so a small node would limit the others"
    )


_NO_DRAFTS = "drafts help some work and slow other work down where experts are on the CPU"


def _gpu(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    settle = case.wishes.settle
    share = fraction(case, choice) if case.cards(choice) else 0.9
    kernels = attention_kernels(case, choice)
    attention = settle("attention_backend", "attention_backend", *kernels)
    return (
        Decision("gpus", choice.gpus, _gpus_why(case, choice)),
        settle("tp", "tp", choice.tp, _tp_why(case, choice)),
        settle("gpu_experts", "gpu_experts", choice.experts, _experts_why(case, choice)),
        settle("mem_fraction", "mem_fraction", share, "leaves the workspace, graphs and slot"),
        settle("chunked_prefill_size", "chunked_prefill_size", choice.chunk, _chunk_why(choice)),
        settle("gpu_prefill_threshold", "gpu_prefill_threshold", *_threshold(case, choice)),
        attention,
        _sampling(attention),
        settle("speculative_algorithm", "speculative_algorithm", None, _NO_DRAFTS),
    )


def _gpus_why(case: SglangCase, choice: SglangChoice) -> str:
    idle = [g for g in nvidia(case.machine) if g.index not in choice.gpus]
    if not idle:
        return "all there are"
    names = ", ".join(f"GPU{g.index} ({g.name})" for g in idle)
    return f"the best plan is on these; not used: {names}"


def _tp_why(case: SglangCase, choice: SglangChoice) -> str:
    have = len(nvidia(case.machine))
    if choice.tp == have:
        return "all GPUs" if have > 1 else "one GPU"
    if not choice.method:
        return f"of {have} GPUs; all experts fit, and more GPUs would decode no faster"
    if choice.tp == max(tp_values(case), default=1):
        return f"of {have} GPUs; heads, expert width and the model's limit allow no better split"
    return f"of {have} GPUs; more make it no better, each takes {gb(case.facts.host_rank)} of RAM"


def _experts_why(case: SglangCase, choice: SglangChoice) -> str:
    experts = case.model.experts
    if case.tuned_experts:
        return "an adapter on the experts works on the CPU only"
    if experts and choice.experts >= experts.count:
        return "all of them fit"
    return "what is left of GPU memory after context and prefill slot"


def _chunk_why(choice: SglangChoice) -> str:
    if choice.slot:
        return "long chunks share one transfer of a layer's experts"
    return "the workspace grows with it"


def _threshold(case: SglangCase, choice: SglangChoice) -> tuple[Any, str]:
    if not choice.slot:
        return None, "no room for a whole layer of experts, or the method cannot"
    hinted = case.hints.flags.get("gpu_prefill_threshold")
    value = prefill_threshold(case, choice)
    why = "recommended for this model" if hinted else "longer prompts are computed on the GPU"
    return value, why


def _sampling(attention: Decision) -> Decision:
    """FlashInfer compiles its sampling kernels on first use, as it does for attention."""
    if attention.value == "flashinfer":
        return Decision("sampling_backend", "flashinfer", "comes with the attention kernels")
    return Decision("sampling_backend", "pytorch", "needs no kernels that are compiled first")


def _lora(case: SglangCase) -> tuple[Decision, ...]:
    adapter = case.adapter
    if adapter is None:
        return ()
    said = case.wishes.settle("lora", "lora", None, "").why
    named = Decision("lora", f"{adapter.name}={adapter.path}", said, "flag")
    if not case.tuned_experts:
        return (named,)
    why = "graphs do not hold experts with an adapter"
    return (named, Decision("disable_cuda_graph", True, why))


HINTED = (
    "tool_call_parser",
    "reasoning_parser",
    "fp8_gemm_backend",
    "quantization",
    "moe_runner_backend",
)


def _hinted(case: SglangCase, choice: SglangChoice) -> tuple[Decision, ...]:
    """Flags the preset recommends that no option of ours sets."""
    flags, source = case.hints.flags, case.hints.source
    found = [Decision(n, flags[n], f"{source}", "preset") for n in HINTED if n in flags]
    if choice.method:
        why = "kt-kernel's experts cannot be fused with shared ones"
        found.append(Decision("disable_shared_experts_fusion", True, why))
    return tuple(found)
