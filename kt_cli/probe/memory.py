"""RAM as this process can have it: what is free, within what its control group allows."""

from __future__ import annotations

import re

from kt_cli.core.machine import Memory, NumaNode
from kt_cli.probe import cgroup, cpulist, numa
from kt_cli.probe.host import Host
from kt_cli.probe.meminfo import meminfo

THP = "/sys/kernel/mm/transparent_hugepage/enabled"


def read(host: Host, nodes: tuple[NumaNode, ...]) -> Memory:
    fields = meminfo(host.text("/proc/meminfo"))
    gpu = [n for n in nodes if n.id in numa.gpu_memory_nodes(host)]
    total = fields.get("MemTotal", 0) - sum(n.memory for n in gpu)
    available = fields.get("MemAvailable", numa.reclaimable(fields)) - sum(n.free for n in gpu)
    group = cgroup.memory(host)
    ceilings = [group.limit] if group else []
    if _restricted(host):
        ceilings.append(sum(n.memory for n in nodes if n not in gpu))
        available = min(available, sum(n.free for n in nodes if n not in gpu))
    limits = [limit for limit in ceilings if limit < total]
    return Memory(
        total=total,
        available=max(0, min(available, group.available if group else available)),
        limit=min(limits, default=None),
        swap=fields.get("SwapTotal", 0),
        hugepages=chosen(host.text(THP)),
    )


def chosen(text: str) -> str:
    """The bracketed word of a sysfs choice: always [madvise] never → madvise."""
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else ""


def _restricted(host: Host) -> bool:
    """Whether the cpuset forbids a node that has memory."""
    allowed = numa.allowed_memory_nodes(host)
    having = cpulist.lenient(host.text(f"{numa.NODES}/has_memory"))
    return allowed is not None and not allowed.issuperset(having)
