"""Which of kt-kernel's methods can serve a checkpoint on a machine, and which is best."""

from __future__ import annotations

from collections.abc import Sequence

from kt_cli.core.facts import Method, SglangFacts
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Experts, Model, Quantization
from kt_cli.core.units import round_down


def obstacle(method: Method, model: Model, machine: Machine) -> str:
    """Why the CPU's part of `method` cannot serve `model` here, empty when it can."""
    stored = model.quantization.method
    if stored not in method.reads and stored not in method.converts:
        takes = " or ".join((*method.reads, *method.converts)) or "nothing known"
        return f"it takes {takes} checkpoints, this one is {stored}"
    if not any(machine.cpu.has(*features) for features in method.isa):
        wanted = " ".join(method.isa[0])
        return f"it needs the CPU features {wanted}, {machine.cpu.model} lacks them"
    return _unread(method, model.quantization) if stored in method.reads else ""


def _unread(method: Method, stored: Quantization) -> str:
    """Why the method does not read this checkpoint of its format."""
    if method.bits and stored.bits != method.bits:
        return f"it reads {method.bits} bits a weight, this checkpoint has {stored.bits}"
    if method.group_step and (stored.group < 1 or stored.group % method.group_step):
        groups = f"groups of {stored.group}" if stored.group > 0 else "one scale a row"
        return f"it reads groups of a multiple of {method.group_step}, this checkpoint has {groups}"
    if method.symmetric and (stored.act_order or stored.zero_points):
        has = "an order by activation" if stored.act_order else "zero points"
        return f"it reads symmetric checkpoints without an order by activation, this one has {has}"
    return ""


def gpu_obstacle(model: Model, gpus: Sequence[Gpu], facts: SglangFacts) -> str:
    """Why these GPUs cannot compute the checkpoint's format, empty when they can."""
    stored = model.quantization.method
    need = facts.formats.get(stored)
    if need is None:
        return f"SGLang serves no {stored} checkpoint on the GPU"
    low = [g for g in gpus if g.capability and g.capability < need]
    if not low:
        return ""
    have = dotted(low[0].capability or (0, 0))
    name = low[0].name
    return f"on the GPU {stored} needs compute capability {dotted(need)}, {name} has {have}"


def usable(model: Model, machine: Machine, facts: SglangFacts) -> list[Method]:
    """Those that the CPU can serve: without conversion first, then in the facts' order."""
    found = [m for m in facts.methods if not obstacle(m, model, machine)]
    return sorted(found, key=lambda m: model.quantization.method not in m.reads)


def expert_bytes(method: Method, model: Model) -> int:
    """One expert as the method holds it in memory."""
    experts, stored = model.experts, model.quantization
    if experts is None:
        return 0
    weight = method.weight
    if method.scale and stored.method in method.reads and stored.group > 0:
        weight = stored.bits / 8 + method.scale / stored.group
    rows = 2 * experts.intermediate + experts.hidden
    return int(experts.parameters_each * weight + rows * method.row_scale)


def cpu_expert_bytes(method: Method, model: Model) -> int:
    """All experts of all layers: kt-kernel holds those that are on the GPU too."""
    experts = model.experts
    return expert_bytes(method, model) * experts.count * len(experts.layers) if experts else 0


def splits(experts: Experts, method: Method, count: int) -> bool:
    """Whether the intermediate size can be split over `count` pools in the method's blocks."""
    share = experts.intermediate // count
    return share * count == experts.intermediate and share % method.rows == 0


def even_threads(threads: int, count: int) -> int:
    return max(count, round_down(threads, count))


def nvidia(machine: Machine) -> list[Gpu]:
    return [g for g in machine.gpus if g.vendor == "nvidia"]


def dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
