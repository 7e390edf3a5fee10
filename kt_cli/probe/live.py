"""What the machine does at this moment: time per CPU, memory per node, load per GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kt_cli.probe import nvidia
from kt_cli.probe.host import Host
from kt_cli.probe.meminfo import meminfo
from kt_cli.probe.numa import NODES, reclaimable


@dataclass(frozen=True, slots=True)
class Times:
    """Clock ticks of one CPU since boot: all of them, and those not idle."""

    total: int
    busy: int


@dataclass(frozen=True, slots=True)
class GpuLoad:
    index: int
    name: str
    memory: int
    used: int
    busy: float | None = None
    """Share of time with a kernel running, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    cpus: Mapping[int, Times] = field(default_factory=dict)
    memory: int = 0
    memory_used: int = 0
    nodes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Node → (bytes, bytes in use)."""
    gpus: tuple[GpuLoad, ...] = ()


def sample(host: Host) -> Sample:
    fields = meminfo(host.text("/proc/meminfo"))
    total = fields.get("MemTotal", 0)
    free = fields.get("MemAvailable", reclaimable(fields))
    return Sample(_times(host.text("/proc/stat")), total, total - free, _nodes(host), _gpus(host))


def busy(before: Sample, after: Sample) -> dict[int, float]:
    """CPU → share of the time between two samples that it worked, 0 to 1."""
    shares = {}
    for cpu, now in after.cpus.items():
        then = before.cpus.get(cpu, Times(0, 0))
        passed = now.total - then.total
        shares[cpu] = min(1.0, max(0.0, (now.busy - then.busy) / passed)) if passed > 0 else 0.0
    return shares


def _times(text: str) -> dict[int, Times]:
    """/proc/stat, `cpuN user nice system idle iowait irq softirq steal …` (proc(5))."""
    found = {}
    for line in text.splitlines():
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            ticks = [int(n) for n in numbers[:8]]
            idle = sum(ticks[3:5])
            found[int(name[3:])] = Times(sum(ticks), sum(ticks) - idle)
    return found


def _nodes(host: Host) -> dict[int, tuple[int, int]]:
    found = {}
    for name in host.names(NODES, "node"):
        fields = meminfo(host.text(f"{NODES}/{name}/meminfo"))
        total = fields.get("MemTotal", 0)
        if name[4:].isdigit() and total:
            found[int(name[4:])] = (total, total - reclaimable(fields))
    return found


def _gpus(host: Host) -> tuple[GpuLoad, ...]:
    found = nvidia.read(host).gpus if host.exists("/proc/driver/nvidia") else ()
    loads = _busy_gpus(host) if found else {}
    return tuple(
        GpuLoad(g.index, g.name, g.memory, g.memory - g.free, loads.get(g.uuid)) for g in found
    )


def _busy_gpus(host: Host) -> dict[str, float]:
    """UUID → share of the last moment in which a kernel ran; empty when the driver is silent."""
    try:
        nvml = host.nvml()
    except ImportError:
        return {}
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        shares = {_uuid(nvml, h): nvml.nvmlDeviceGetUtilizationRates(h).gpu / 100 for h in handles}
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return {}
    return shares


def _uuid(nvml: Any, handle: Any) -> str:
    found = nvml.nvmlDeviceGetUUID(handle)
    return found.decode() if isinstance(found, bytes) else str(found)
