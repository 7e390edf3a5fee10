"""Which of kt-kernel's methods can serve a checkpoint on a machine, and which is best."""

from __future__ import annotations

from collections.abc import Sequence

from kt_cli.core.facts import Method, SglangFacts
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Experts, Model
from kt_cli.core.units import round_down


def obstacle(method: Method, model: Model, machine: Machine) -> str:
    """Why `method` cannot serve `model` here, empty when it can."""
    stored = model.quantization.method
    if stored not in method.reads and stored not in method.converts:
        takes = " or ".join((*method.reads, *method.converts)) or "nothing known"
        return f"it takes {takes} checkpoints, this one is {stored}"
    if not any(machine.cpu.has(*features) for features in method.isa):
        wanted = " ".join(method.isa[0])
        return f"it needs the CPU features {wanted}, {machine.cpu.model} lacks them"
    low = [g for g in nvidia(machine) if g.capability and g.capability < method.capability]
    if low and stored in method.reads:
        need, have = dotted(method.capability), dotted(low[0].capability or (0, 0))
        return f"on the GPU its format needs compute capability {need}, {low[0].name} has {have}"
    return ""


def usable(model: Model, machine: Machine, facts: SglangFacts) -> list[Method]:
    """Without conversion first, then in the facts' order."""
    found = [m for m in facts.methods if not obstacle(m, model, machine)]
    return sorted(found, key=lambda m: model.quantization.method not in m.reads)


def expert_bytes(method: Method, experts: Experts) -> int:
    """One expert as the method holds it in memory."""
    rows = 2 * experts.intermediate + experts.hidden
    return int(experts.parameters_each * method.weight + rows * method.row_scale)


def cpu_expert_bytes(method: Method, experts: Experts) -> int:
    """All experts of all layers: kt-kernel holds those that are on the GPU too."""
    return expert_bytes(method, experts) * experts.count * len(experts.layers)


def pools(experts: Experts, method: Method, nodes: Sequence[int]) -> tuple[int, ...]:
    """As many of the nodes as the intermediate size can be split over in the method's blocks."""
    for count in range(len(nodes), 1, -1):
        share = experts.intermediate // count
        if share * count == experts.intermediate and share % method.rows == 0:
            return tuple(nodes[:count])
    return tuple(nodes[:1])


def even_threads(threads: int, count: int) -> int:
    return max(count, round_down(threads, count))


def nvidia(machine: Machine) -> list[Gpu]:
    return [g for g in machine.gpus if g.vendor == "nvidia"]


def dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
