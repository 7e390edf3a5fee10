"""The machine as a drawing: sockets, NUMA nodes, their cores, memory and GPUs."""

from __future__ import annotations

from collections.abc import Iterable

from kt_cli.core.machine import Gpu, Machine, NumaNode
from kt_cli.core.units import gb
from kt_cli.probe import cpulist

_ASCII = str.maketrans("└├│─", "`||-")


def draw(machine: Machine) -> list[str]:
    """Lines of text; a GPU hangs below its nearest node, or below the machine."""
    lines = [f"{machine.name}: {machine.cpu.model}, {gb(machine.memory.total)} RAM"]
    branches = [_node(machine, node) for node in machine.nodes]
    known = {node.id for node in machine.nodes}
    branches += [[_gpu(gpu)] for gpu in machine.gpus if gpu.node not in known]
    return lines + _tree(branches)


def _node(machine: Machine, node: NumaNode) -> list[str]:
    cores = [core for core in machine.cpu.cores if core.node == node.id]
    sockets = sorted({core.socket for core in cores})
    place = f"node {node.id}" + (
        f" (socket {sockets[0]})" if machine.cpu.sockets > 1 and cores else ""
    )
    cpus = cpulist.format(cpu for core in cores for cpu in core.cpus)
    work = f"{len(cores)} cores, CPUs {cpus}" if cores else "no CPUs to use"
    memory = f"{gb(node.memory)}, {gb(node.free)} free" if node.memory else "no memory to use"
    gpus = [[_gpu(gpu)] for gpu in machine.gpus if gpu.node == node.id]
    return [f"{place}  {work}  {memory}", *_tree(gpus)]


def _gpu(gpu: Gpu) -> str:
    lanes = f"PCIe {gpu.pcie_gen or '?'} x{gpu.pcie_width}" if gpu.pcie_width else ""
    facts = [f"GPU {gpu.index}", gpu.name, f"{gb(gpu.free)} of {gb(gpu.memory)} free", lanes]
    return "  ".join(fact for fact in facts if fact)


def _tree(branches: list[list[str]]) -> list[str]:
    lines: list[str] = []
    for position, branch in enumerate(branches):
        last = position == len(branches) - 1
        lines += _indented(branch, "└─ " if last else "├─ ", "   " if last else "│  ")
    return lines


def _indented(branch: Iterable[str], first: str, rest: str) -> list[str]:
    return [(rest if i else first) + line for i, line in enumerate(branch)]


def ascii_only(line: str) -> str:
    return line.translate(_ASCII)
