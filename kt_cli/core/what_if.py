"""Machines that differ from one that is there: more RAM, other GPUs; and figures not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kt_cli.core.facts import GpuFacts
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.units import GIB

SYSTEM_RAM = 2 * GIB
"""Taken by the system itself on an imagined machine."""
DRIVER = int(0.4 * GIB)
"""Taken by the driver on an imagined GPU."""
LANE_GBS = {3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}
"""PCIe: GB/s a lane and generation."""


def with_ram(machine: Machine, size: int) -> Machine:
    """All of it available but what the system takes; NUMA nodes share it evenly."""
    holders = [n for n in machine.nodes if n.memory] or list(machine.nodes)
    share = size // max(1, len(holders))
    nodes = tuple(
        replace(n, memory=share, free=share) if n in holders else n for n in machine.nodes
    )
    memory = replace(machine.memory, total=size, available=max(0, size - SYSTEM_RAM), limit=None)
    return replace(machine, nodes=nodes, memory=memory)


def with_vram(machine: Machine, size: int) -> Machine:
    """Each GPU with this much memory."""
    free = max(0, size - DRIVER)
    return replace(machine, gpus=tuple(replace(g, memory=size, free=free) for g in machine.gpus))


def with_gpus(machine: Machine, count: int, facts: GpuFacts | None) -> Machine:
    """`count` GPUs of a kind, or of the kind the machine has."""
    if count == 0:
        return replace(machine, gpus=())
    first = imagined(facts) if facts else machine.gpus[0]
    homes = [n.id for n in machine.worker_nodes] or [0]
    gpus = tuple(
        replace(first, index=i, uuid="", bus="", node=homes[i % len(homes)]) for i in range(count)
    )
    changed = replace(machine, gpus=gpus)
    return _measured_as(changed, facts) if facts else changed


def imagined(facts: GpuFacts) -> Gpu:
    memory = int(facts.memory_gib * GIB)
    name = f"NVIDIA {facts.name}"
    return Gpu(0, name, "nvidia", memory, memory - DRIVER, capability=facts.capability)


def _measured_as(machine: Machine, facts: GpuFacts) -> Machine:
    gops = {**machine.measured.gops, "gpu_bf16": facts.tflops * 1000}
    return replace(machine, measured=replace(machine.measured, gpu_gbs=facts.gbs, gops=gops))


def completed(machine: Machine, table: Sequence[GpuFacts]) -> Machine:
    """Figures that were not measured, from the GPU's data sheet and its PCIe link."""
    if not machine.gpus:
        return machine
    gpu, measured = machine.gpus[0], machine.measured
    facts = find_gpu(gpu.name, table)
    gops = dict(measured.gops)
    if facts and "gpu_bf16" not in gops:
        gops["gpu_bf16"] = facts.tflops * 1000
    link = (gpu.pcie_width or 0) * LANE_GBS.get(gpu.pcie_gen or 0, 0.0)
    filled = replace(
        measured,
        gops=gops,
        gpu_gbs=measured.gpu_gbs or (facts.gbs if facts else None),
        pcie_gbs=measured.pcie_gbs or (link or None),
    )
    return replace(machine, measured=filled)


def find_gpu(name: str, table: Sequence[GpuFacts]) -> GpuFacts | None:
    """The longest name of the table that stands in `name`, spaces and case aside."""
    flat = _flat(name)
    found = [g for g in table if _flat(g.name) in flat or _flat(g.name).endswith(flat)]
    return max(found, key=lambda g: len(g.name), default=None)


def _flat(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("rtx", "")
