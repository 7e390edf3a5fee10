"""NUMA nodes: those with CPUs, those with memory, and the distances between them."""

from __future__ import annotations

from dataclasses import replace

from kt_cli.core.machine import NumaNode
from kt_cli.probe import answers, cpulist
from kt_cli.probe.host import Host
from kt_cli.probe.meminfo import meminfo

NODES = "/sys/devices/system/node"


def read(host: Host) -> tuple[NumaNode, ...]:
    """Memory that the cpuset forbids counts as absent; one node where the kernel shows none."""
    ids = cpulist.lenient(host.text(f"{NODES}/online"))
    if not ids:
        return (_whole(host),)
    allowed = allowed_memory_nodes(host)
    nodes = tuple(_node(host, i, allowed is None or i in allowed) for i in ids)
    having = [node for node in nodes if node.memory]
    if len(having) != 1 or len(cpulist.lenient(host.text(f"{NODES}/has_memory"))) > 1:
        return nodes
    # The only node has it all, also where a hypervisor adds memory that the node does not count.
    whole = _whole(host)
    fuller = replace(having[0], memory=whole.memory, free=whole.free)
    return tuple(fuller if node is having[0] else node for node in nodes)


def allowed_memory_nodes(host: Host) -> frozenset[int] | None:
    """Nodes that cpuset.mems and the memory policy leave; None when unknown."""
    for line in host.text("/proc/self/status").splitlines():
        if line.startswith("Mems_allowed_list:"):
            return frozenset(cpulist.lenient(line.partition(":")[2])) or None
    return None


def gpu_memory_nodes(host: Host) -> frozenset[int]:
    """Nodes whose memory is a GPU's own (GH200): the kernel counts it as RAM, we do not."""
    nodes = set()
    for card in host.names("/proc/driver/nvidia/gpus"):
        for line in host.text(f"/proc/driver/nvidia/gpus/{card}/numa_status").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Node" and (node := answers.number(value)) is not None:
                nodes.add(node)
    return frozenset(nodes)


def _node(host: Host, node: int, usable: bool) -> NumaNode:
    place = f"{NODES}/node{node}"
    fields = meminfo(host.text(f"{place}/meminfo"))
    distances = host.text(f"{place}/distance").split()
    return NumaNode(
        id=node,
        cpus=cpulist.lenient(host.text(f"{place}/cpulist")),
        memory=fields.get("MemTotal", 0) if usable else 0,
        free=reclaimable(fields) if usable else 0,
        distances=tuple(n for d in distances if (n := answers.number(d)) is not None),
    )


def reclaimable(fields: dict[str, int]) -> int:
    """Free pages and file pages that the kernel drops on demand."""
    names = ("MemFree", "Active(file)", "Inactive(file)")
    return min(fields.get("MemTotal", 0), sum(fields.get(name, 0) for name in names))


def _whole(host: Host) -> NumaNode:
    fields = meminfo(host.text("/proc/meminfo"))
    cpus = cpulist.lenient(host.text("/sys/devices/system/cpu/online"))
    free = fields.get("MemAvailable", reclaimable(fields))
    return NumaNode(0, cpus or _counted(host), fields.get("MemTotal", 0), free, (10,))


def _counted(host: Host) -> tuple[int, ...]:
    lines = host.text("/proc/cpuinfo").splitlines()
    return tuple(range(sum(1 for line in lines if line.startswith("processor")) or 1))
