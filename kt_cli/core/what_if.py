"""Machines that differ from one that is there: more RAM, other GPUs; and figures not measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from kt_cli.core.facts import CpuFacts, GpuFacts
from kt_cli.core.hardware import find_gpu
from kt_cli.core.machine import Core, Cpu, Disk, Gpu, Machine, NumaNode
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


VENDORS = {"nvidia": "NVIDIA", "amd": "AMD Radeon", "intel": "Intel", "ascend": "Ascend"}


def imagined(facts: GpuFacts) -> Gpu:
    memory = int(facts.sizes_gib[0] * GIB)
    name = f"{VENDORS[facts.vendor]} {facts.name}"
    return Gpu(0, name, facts.vendor, memory, memory - DRIVER, capability=facts.capability)


def _measured_as(machine: Machine, facts: GpuFacts) -> Machine:
    gops = {**machine.measured.gops, "gpu_bf16": facts.tflops * 1000}
    return replace(machine, measured=replace(machine.measured, gpu_gbs=facts.gbs, gops=gops))


BANDWIDTH_SHARE = 0.75
"""Of the specified bandwidth, what reading reaches: 0.7 to 0.8 on the machines measured so far."""
CORE_GBS = {False: 25.0, True: 12.0}
"""GB/s one core reads, on desktops and on servers (more than four channels)."""


def with_cpu(machine: Machine, facts: CpuFacts, sockets: int = 1) -> Machine:
    """Processors of a kind, a NUMA node each, in place of the machine's; RAM is shared evenly."""
    total = facts.cores * sockets
    cores = tuple(Core((i, total + i), i // facts.cores, i // facts.cores) for i in range(total))
    share = machine.memory.total // sockets
    free = min(machine.memory.available, machine.memory.usable) // sockets
    nodes = tuple(_node(n, facts.cores, total, share, free) for n in range(sockets))
    vendor = "AuthenticAMD" if facts.maker.startswith("AMD") else "GenuineIntel"
    cpu = Cpu(facts.full_name, vendor, facts.isa, cores, total, 2 * total, sockets)
    gops = {**_cpu_gops(facts, total), **_gpu_gops(machine)}
    measured = replace(machine.measured, read_gbs=_read_gbs(facts, sockets), gops=gops, stolen={})
    memory = replace(machine.memory, limit=None)
    gpus = tuple(replace(g, node=i % sockets) for i, g in enumerate(machine.gpus))
    return replace(machine, cpu=cpu, nodes=nodes, memory=memory, measured=measured, gpus=gpus)


def _node(index: int, cores: int, total: int, memory: int, free: int) -> NumaNode:
    first = range(index * cores, (index + 1) * cores)
    return NumaNode(index, (*first, *(total + i for i in first)), memory, free)


def _read_gbs(facts: CpuFacts, sockets: int) -> dict[int, float]:
    """A line up to what the memory gives."""
    alone, limit = CORE_GBS[facts.channels > 4], facts.gbs * BANDWIDTH_SHARE
    filled = min(facts.cores, -(-int(limit) // int(alone)))
    points = {1: alone, filled: min(limit, alone * facts.cores)}
    points[facts.cores * sockets] = points[filled] * sockets
    return points


def _cpu_gops(facts: CpuFacts, cores: int) -> dict[str, float]:
    """Peaks: VNNI does four int8 products where fp32 does one, AVX512-BF16 two; AMX does 1024
    and 2048 products a cycle in bf16 and int8 (Intel 64 and IA-32 optimisation manual)."""
    clock = 2 * facts.ghz * cores
    rates = {"fp32": facts.fma, "int8": facts.fma}
    if "avx512_vnni" in facts.isa or "avx_vnni" in facts.isa:
        rates["int8"] = 4 * facts.fma
    if "avx512_bf16" in facts.isa:
        rates["bf16"] = 2 * facts.fma
    if "amx_bf16" in facts.isa:
        rates |= {"bf16": 1024, "int8": 2048}
    return {kind: clock * rate for kind, rate in rates.items()}


def _gpu_gops(machine: Machine) -> dict[str, float]:
    return {kind: rate for kind, rate in machine.measured.gops.items() if kind.startswith("gpu_")}


def with_disk(machine: Machine, gbs: float | None, size: int | None, rotational: bool) -> Machine:
    """A disk of this speed or size, all of it free, in place of the machine's."""
    disks = machine.disks or (Disk("/", 0, 0),)
    if size is not None:
        disks = (replace(disks[0], total=size, free=size, rotational=rotational),)
    measured = replace(machine.measured, disk_gbs=gbs or machine.measured.disk_gbs)
    return replace(machine, disks=disks if size or machine.disks else (), measured=measured)


def completed(machine: Machine, table: Sequence[GpuFacts]) -> Machine:
    """Every GPU with figures of its own: those measured, else of its data sheet and PCIe link.

    Measured is the first GPU; its figures hold for others of its kind.
    """
    if not machine.gpus:
        return machine
    gpus = tuple(_figured(machine, gpu, table) for gpu in machine.gpus)
    first, measured = gpus[0], machine.measured
    gops = {**measured.gops, **({"gpu_bf16": first.gops} if first.gops else {})}
    filled = replace(measured, gops=gops, gpu_gbs=first.gbs, pcie_gbs=first.pcie_gbs)
    return replace(machine, gpus=gpus, measured=filled)


def _figured(machine: Machine, gpu: Gpu, table: Sequence[GpuFacts]) -> Gpu:
    first, measured = machine.gpus[0], machine.measured
    alike = (gpu.name, gpu.memory) == (first.name, first.memory)
    facts = find_gpu(gpu.name, table)
    sheet = _slice(gpu, facts) if facts else (None, None)
    link = (gpu.pcie_width or 0) * LANE_GBS.get(gpu.pcie_gen or 0, 0.0)
    pcie = (measured.pcie_gbs if alike else None) or link or measured.pcie_gbs
    return replace(
        gpu,
        gbs=gpu.gbs or (measured.gpu_gbs if alike else None) or sheet[0],
        gops=gpu.gops or (measured.gops.get("gpu_bf16") if alike else None) or sheet[1],
        pcie_gbs=gpu.pcie_gbs or pcie or None,
    )


def _slice(gpu: Gpu, facts: GpuFacts) -> tuple[float, float]:
    """GB/s and Gop/s: a MIG slice has as much of the bandwidth as of the memory, and of seven
    parts of the arithmetic those that its name counts, as in `1g.10gb`."""
    parts = _MIG.search(gpu.name)
    if not (gpu.mig or parts):
        return facts.gbs, facts.tflops * 1000
    memory = min(1.0, gpu.memory / (facts.sizes_gib[0] * GIB))
    arithmetic = int(parts[1]) / 7 if parts else memory
    return facts.gbs * memory, facts.tflops * 1000 * arithmetic


_MIG = re.compile(r"\bMIG\b.*?(\d)g\.", re.IGNORECASE)
