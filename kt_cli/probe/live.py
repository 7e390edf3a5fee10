"""What the machine does at this moment: time per CPU, memory per node, load per GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kt_cli.probe import answers, nvidia
from kt_cli.probe.host import Host
from kt_cli.probe.meminfo import meminfo
from kt_cli.probe.numa import NODES, reclaimable
from kt_cli.probe.nvml import Nvml, opened


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
        name, *numbers = line.split() or [""]
        cpu = answers.number(name[3:]) if name.startswith("cpu") else None
        if cpu is not None:
            ticks = [answers.number(n) or 0 for n in numbers[:8]]
            idle = sum(ticks[3:5])
            found[cpu] = Times(sum(ticks), sum(ticks) - idle)
    return found


def _nodes(host: Host) -> dict[int, tuple[int, int]]:
    found = {}
    for name in host.names(NODES, "node"):
        fields = meminfo(host.text(f"{NODES}/{name}/meminfo"))
        total, node = fields.get("MemTotal", 0), answers.number(name[4:])
        if node is not None and total:
            found[node] = (total, total - reclaimable(fields))
    return found


def _gpus(host: Host) -> tuple[GpuLoad, ...]:
    found = nvidia.read(host).gpus if host.exists("/proc/driver/nvidia") else ()
    loads = _busy_gpus(host) if found else {}
    return tuple(
        GpuLoad(g.index, g.name, g.memory, g.memory - g.free, loads.get(g.uuid)) for g in found
    )


def _busy_gpus(host: Host) -> dict[str, float]:
    """UUID → share of the last moment in which a kernel ran; only cards that tell."""
    with opened(host) as nvml:
        if isinstance(nvml, str):
            return {}
        found = [
            (nvml.text("nvmlDeviceGetUUID", h.value), _load(nvml, h.value))
            for _, h in nvml.handles()
        ]
    return {uuid: share for uuid, share in found if uuid and share is not None}


def _load(nvml: Nvml, handle: object) -> float | None:
    rates = nvml.ask("nvmlDeviceGetUtilizationRates", handle).value
    percent = answers.number(getattr(rates, "gpu", None))
    return None if percent is None else min(1.0, percent / 100)
