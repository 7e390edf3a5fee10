"""`Machine`: what a computer has, as read by `probe` or from a TOML file. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GpuVendor = Literal["nvidia", "amd", "intel", "ascend"]

STOLEN = 0.05
"""Share of its CPUs' time that a hypervisor may take before threads wait for each other."""


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core with those of its logical CPUs that this process may use."""

    cpus: tuple[int, ...]
    node: int
    socket: int = 0
    efficiency: bool = False
    """A small core of a hybrid processor (Intel's E-cores, Arm's LITTLE)."""


@dataclass(frozen=True, slots=True)
class Cpu:
    model: str
    vendor: str
    isa: tuple[str, ...]
    """Instruction sets under Linux's names: avx2, fma, avx512f, avx512_vnni, amx_int8, …"""
    cores: tuple[Core, ...]
    total_cores: int
    """Physical cores present, allowed or not."""
    total_threads: int
    sockets: int = 1
    quota: float | None = None
    """CPUs' worth of time the cgroup grants, None for no limit."""
    why: str = ""
    """What narrows the allowed cores: affinity, cpuset, quota."""
    withheld: tuple[str, ...] = ()
    """Instruction sets that the processor has and `KT_ISA` leaves unused."""

    @property
    def physical_cores(self) -> int:
        """Physical cores this process may keep busy: affinity ∩ cpuset ∩ quota; never 0."""
        allowed = len(self.cores)
        return max(1, allowed if self.quota is None else min(allowed, int(self.quota)))

    def has(self, *features: str) -> bool:
        return all(f in self.isa for f in features)


@dataclass(frozen=True, slots=True)
class NumaNode:
    id: int
    cpus: tuple[int, ...]
    memory: int
    free: int
    distances: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    total: int
    available: int
    """What can be had without swapping, the cgroup's limit included."""
    limit: int | None = None
    swap: int = 0
    hugepages: str = ""
    """Transparent huge pages: always, madvise or never."""

    @property
    def usable(self) -> int:
        """All that could be had on an idle machine."""
        return self.total if self.limit is None else min(self.total, self.limit)


@dataclass(frozen=True, slots=True)
class Gpu:
    index: int
    """Position in the order of CUDA_VISIBLE_DEVICES (or its like)."""
    name: str
    vendor: GpuVendor
    memory: int
    free: int
    uuid: str = ""
    capability: tuple[int, int] | None = None
    pcie_gen: int | None = None
    pcie_width: int | None = None
    pcie_max_gen: int | None = None
    """Best the card itself can do; `pcie_gen` is what card and slot can do together."""
    pcie_max_width: int | None = None
    bus: str = ""
    """PCI address, 0000:17:00.0."""
    node: int | None = None
    mig: bool = False
    unified: bool = False
    """It has no memory of its own: `memory` is the system's RAM, which programs share with it."""
    gbs: float | None = None
    """Memory bandwidth, GB/s: of the slice, where it is one."""
    gops: float | None = None
    """Dense bf16, Gop/s."""
    pcie_gbs: float | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    path: str
    total: int
    free: int
    rotational: bool | None = None
    mount: str = ""
    """Mount point: places with the same one share their room."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine found on this machine; `problem` is empty when it really loads."""

    name: str
    version: str
    python: str = ""
    problem: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """Limits measured on this machine. GB/s and G(FL)OP/s are decimal."""

    read_gbs: Mapping[int, float] = field(default_factory=dict)
    """Threads → memory read bandwidth, GB/s."""
    gops: Mapping[str, float] = field(default_factory=dict)
    """Peak of all cores by kind: fp32, bf16, int8 → Gop/s."""
    gpu_gbs: float | None = None
    pcie_gbs: float | None = None
    disk_gbs: float | None = None
    date: str = ""
    stolen: Mapping[int, float] = field(default_factory=dict)
    """Busy threads → share of their CPUs' time that the hypervisor gave to others."""

    @property
    def overbooked(self) -> bool:
        """Whether the hypervisor takes time as soon as all cores are busy."""
        return bool(self.stolen) and self.stolen[max(self.stolen)] > STOLEN

    @property
    def unhindered(self) -> int | None:
        """Most threads the hypervisor let run; None where that is all, unknown, or no number."""
        ran = [threads for threads, share in self.stolen.items() if share <= STOLEN]
        return max(ran, default=None) if self.overbooked else None


@dataclass(frozen=True, slots=True)
class System:
    os: str = ""
    kernel: str = ""
    glibc: str = ""
    python: str = ""
    container: str = ""
    governor: str = ""
    numa_balancing: bool | None = None
    driver: str = ""
    """GPU driver's version."""
    cuda: str = ""
    """Newest CUDA version the driver supports."""


@dataclass(frozen=True, slots=True)
class Machine:
    name: str
    cpu: Cpu
    nodes: tuple[NumaNode, ...]
    memory: Memory
    gpus: tuple[Gpu, ...] = ()
    disks: tuple[Disk, ...] = ()
    engines: tuple[Engine, ...] = ()
    measured: Measured = field(default_factory=Measured)
    system: System = field(default_factory=System)
    source: str = ""
    """Where the facts come from: "this machine", a preset with its source, a file."""
    problems: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    @property
    def threads(self) -> int:
        """Threads that run at once: the cores, fewer where a hypervisor holds the others back."""
        cores = self.cpu.physical_cores
        return min(cores, self.measured.unhindered or cores)

    @property
    def held_back(self) -> str:
        """Why `threads` is less than the cores, empty where it is not."""
        if self.threads == self.cpu.physical_cores:
            return ""
        stolen = self.measured.stolen
        most = max(stolen)
        taken = f"the hypervisor took {stolen[most]:.0%} of {most} CPUs' time"
        return f"{taken}: {self.threads} ran freely"

    @property
    def worker_nodes(self) -> tuple[NumaNode, ...]:
        """Nodes that have both allowed CPUs and memory: those that can run experts."""
        allowed = {core.node for core in self.cpu.cores}
        return tuple(n for n in self.nodes if n.cpus and n.memory and n.id in allowed)

    def engine(self, name: str) -> Engine | None:
        return next((e for e in self.engines if e.name == name), None)
