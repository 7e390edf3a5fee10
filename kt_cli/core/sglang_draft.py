"""What an SGLang plan settles before its sizes: the expert method, NUMA nodes and threads."""

from __future__ import annotations

from collections.abc import Sequence

from kt_cli.core.facts import Method
from kt_cli.core.ledger import missing
from kt_cli.core.machine import Gpu
from kt_cli.core.methods import (
    even_threads,
    gpu_obstacle,
    nvidia,
    obstacle,
    splits,
    usable,
)
from kt_cli.core.sglang_choice import SglangCase, SglangChoice, unsupported
from kt_cli.core.sglang_ledger import node_pools


def methods(case: SglangCase, gpus: Sequence[Gpu]) -> list[str]:
    """Those that a plan chooses from by itself, the checkpoint's own format first.

    A conversion is chosen only where its weights are given or no method reads the checkpoint: what
    runs as it is stays the choice however much memory there is. An empty name where there is none.
    """
    asked = case.wishes.get("kt_method")
    if asked:
        return [asked]
    if not case.model.experts or unsupported(case):
        return [""]
    able, stored = _able(case), case.model.quantization.method
    own = [m.name for m in able if stored in m.reads and not gpu_obstacle_of(case, gpus)]
    converted = [m.name for m in able if stored not in m.reads]
    if own and not case.wishes.fixed("weights_path"):
        return own
    return [*own, *converted] or [""]


def converted(case: SglangCase, name: str) -> bool:
    """Whether the method's experts are not those of the checkpoint."""
    method = case.method(name)
    return method is not None and case.model.quantization.method not in method.reads


def gpu_obstacle_of(case: SglangCase, gpus: Sequence[Gpu]) -> str:
    return gpu_obstacle(case.model, gpus, case.facts)


def may_hold_experts(case: SglangCase, choice: SglangChoice) -> bool:
    """Whether routed experts may lie on the GPUs at all."""
    return not gpu_obstacle_of(case, case.cards(choice))


def draft(case: SglangCase, method: str, gpus: tuple[int, ...]) -> SglangChoice:
    """What is settled before the sizes, on the NUMA nodes that hold it and have most cores."""
    ways = [_drafted(case, method, gpus, nodes) for nodes in node_sets(case, method, len(gpus))]
    return max(ways, key=lambda way: (-host_short(case, way), way.threads, len(way.nodes)))


def _drafted(
    case: SglangCase, method: str, gpus: tuple[int, ...], nodes: tuple[int, ...]
) -> SglangChoice:
    wishes = case.wishes
    return SglangChoice(
        gpus=gpus,
        nodes=nodes,
        method=method,
        threads=wishes.get("cpu_threads") or _threads(case, nodes, len(gpus)),
        kv_dtype=wishes.get("kv_cache_dtype") or default_kv(case),
        requests=wishes.get("max_running_requests") or case.facts.requests,
        chunk=wishes.get("chunked_prefill_size") or min(case.facts.chunks),
    )


def default_kv(case: SglangCase) -> str:
    """bf16, but for compressed attention, which SGLang keeps in fp8 only."""
    return "fp8" if case.model.attention.compressed_layers else "bf16"


def host_short(case: SglangCase, choice: SglangChoice) -> int:
    return sum(map(missing, node_pools(case, choice)))


def node_sets(case: SglangCase, method: str, gpus: int) -> list[tuple[int, ...]]:
    """NUMA nodes that experts may be split over, evenly: all, or fewer where some are small.

    For every number of nodes and every least memory, those with most cores.
    """
    asked = case.wishes.get("numa_nodes")
    if asked:
        return [tuple(asked)]
    known, experts = case.method(method), case.model.experts
    nodes, near = case.machine.worker_nodes, {g.node for g in nvidia(case.machine)}
    order = sorted(nodes, key=lambda n: (-_cores(case, (n.id,)), -n.memory, n.id not in near, n.id))
    found = []
    for count in range(len(nodes), 0, -1):
        whole = known is None or experts is None or splits(experts, known, count)
        if count == 1 or (whole and count <= _allowed(case, gpus)):
            for least in sorted({n.memory for n in nodes}, reverse=True):
                able = [n.id for n in order if n.memory >= least]
                found += [tuple(sorted(able[:count]))] if len(able) >= count else []
    return list(dict.fromkeys(found)) or [()]


def method_why(case: SglangCase, name: str) -> str:
    """Why it is the method of that name."""
    able, stored = _able(case), case.model.quantization.method
    method = case.method(name)
    if not case.model.experts:
        return "this model has no experts"
    if not able or method is None:
        return no_method(case)
    if stored in method.reads:
        return f"the checkpoint's own format ({stored}): as exact as it is, no conversion"
    return f"the best of this CPU for {stored} checkpoints, after a conversion"


def no_method(case: SglangCase) -> str:
    """Why the CPU cannot compute this checkpoint's experts."""
    stored, why = case.model.quantization.method, unsupported(case)
    if why:
        return why
    own = [m for m in case.facts.methods if stored in m.reads]
    reasons = (obstacle(m, case.model, case.machine) for m in own)
    found = next((f"{m.name}: {r}" for m, r in zip(own, reasons, strict=True) if r), "")
    return found or f"kt-kernel has no method for {stored} checkpoints"


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


def threads_why(case: SglangCase, choice: SglangChoice) -> str:
    each = f"{choice.threads // max(1, len(choice.nodes))} physical cores on each node"
    if case.machine.threads < _cores(case, choice.nodes) and case.machine.held_back:
        each += f" ({case.machine.held_back})"
    return f"{each}; one is left to kt-kernel's queue thread, hyper-threads would slow it"


def _cores(case: SglangCase, nodes: tuple[int, ...]) -> int:
    """Physical cores of the nodes."""
    cores = case.machine.cpu.cores
    return sum(1 for core in cores if core.node in nodes) or len(cores)


def _allowed(case: SglangCase, gpus: int) -> int:
    """Cores for experts: those that run at once, less kt-kernel's spinning queue thread and,
    without hyper-threads to run on, one for each GPU's scheduler process."""
    cpu = case.machine.cpu
    smt = any(len(core.cpus) > 1 for core in cpu.cores)
    taken = 1 + (0 if smt else gpus)
    return max(1, case.machine.threads - taken)


def _threads(case: SglangCase, nodes: tuple[int, ...], gpus: int) -> int:
    """As many on each node as the node with fewest cores has."""
    count, allowed = max(1, len(nodes)), _allowed(case, gpus)
    spare = case.machine.threads - allowed
    each = min((_cores(case, (node,)) for node in nodes), default=1)
    own = min(each * count, max(1, _cores(case, nodes) - spare), allowed)
    return even_threads(own, count)
