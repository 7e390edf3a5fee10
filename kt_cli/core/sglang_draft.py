"""What an SGLang plan settles before its sizes: the expert method, NUMA nodes and threads."""

from __future__ import annotations

from kt_cli.core.facts import Method
from kt_cli.core.methods import cpu_expert_bytes, even_threads, nvidia, pools, usable
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.units import gb


def methods(case: SglangCase) -> list[str]:
    """Those to choose from, best first: the checkpoint's own format, then what is converted.

    Just the one that was asked for; an empty name where there is none.
    """
    asked = case.wishes.get("kt_method")
    if asked:
        return [asked]
    if not case.model.experts:
        return [""]
    return [m.name for m in _able(case)] or [""]


def draft(case: SglangCase, method: str, tp: int) -> SglangChoice:
    wishes = case.wishes
    nodes = _nodes(case, case.method(method))
    return SglangChoice(
        tp=tp,
        nodes=nodes,
        method=method,
        threads=wishes.get("cpu_threads") or _threads(case, nodes),
        kv_dtype=wishes.get("kv_cache_dtype") or "bf16",
        requests=wishes.get("max_running_requests") or case.facts.requests,
    )


def method_why(case: SglangCase, name: str) -> str:
    """Why it is the method of that name."""
    able, experts, stored = _able(case), case.model.experts, case.model.quantization.method
    method = case.method(name)
    if not experts:
        return "this model has no experts"
    if not able or method is None:
        return "no method of kt-kernel serves this checkpoint here"
    if name != able[0].name:
        return f"{able[0].name} would need {gb(cpu_expert_bytes(able[0], experts))} of RAM"
    if stored in method.reads:
        return f"the checkpoint's own format ({stored}), no conversion"
    return f"the best of this CPU for {stored} checkpoints, after a conversion"


def _able(case: SglangCase) -> list[Method]:
    found = [m for m in usable(case.model, case.machine, case.facts) if m.automatic]
    tunable = [m for m in found if not lora_obstacle(case, m)] if case.tuned_experts else found
    return tunable or found


def lora_obstacle(case: SglangCase, method: Method) -> str:
    """Why the method's experts take no adapter here, empty when they do."""
    if not method.lora:
        return "kt-kernel has no adapters for its experts"
    if not any(case.machine.cpu.has(*features) for features in method.lora):
        return f"adapters need the CPU features {' '.join(method.lora[0])}"
    return ""


def _nodes(case: SglangCase, method: Method | None) -> tuple[int, ...]:
    asked = case.wishes.get("numa_nodes")
    if asked:
        return tuple(asked)
    near = [g.node for g in nvidia(case.machine) if g.node is not None]
    ids = sorted((n.id for n in case.machine.worker_nodes), key=lambda i: (i not in near, i))
    experts = case.model.experts
    if method and experts:
        ids = list(pools(experts, method, ids))
    return tuple(sorted(ids))


def threads_why(case: SglangCase, choice: SglangChoice) -> str:
    each = f"{choice.threads // max(1, len(choice.nodes))} physical cores on each node"
    if case.machine.threads < _cores(case, choice.nodes) and case.machine.held_back:
        each += f" ({case.machine.held_back})"
    return f"{each}; one is left to kt-kernel's queue thread, hyper-threads would slow it"


def _cores(case: SglangCase, nodes: tuple[int, ...]) -> int:
    """Physical cores of the nodes."""
    cores = case.machine.cpu.cores
    return sum(1 for core in cores if core.node in nodes) or len(cores)


def _threads(case: SglangCase, nodes: tuple[int, ...]) -> int:
    """Cores of the nodes that run at once, less kt-kernel's spinning queue thread and, without
    hyper-threads to run on, one for each GPU's scheduler process."""
    cpu = case.machine.cpu
    allowed = min(_cores(case, nodes), case.machine.threads)
    smt = any(len(core.cpus) > 1 for core in cpu.cores)
    taken = 1 + (0 if smt else len(nvidia(case.machine)))
    return even_threads(max(1, allowed - taken), max(1, len(nodes)))
