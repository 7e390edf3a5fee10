"""What processes hold: memory of their own, weights used where their file is mapped, GPU memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from kt_cli.probe.host import Host

WEIGHTS = (".safetensors", ".gguf", ".ktmoe")
KB = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes. Programs and libraries are left out: the kernel can drop them and read them again.

    `gpu` is None where no driver tells.
    """

    anonymous: int
    """Pages that forked processes share count once."""
    weights: int
    gpu: int | None = None
    shared: int = 0
    """Shared memory, pinned buffers of CUDA among it."""


@dataclass(frozen=True, slots=True)
class Mapping:
    path: str
    size: int
    anonymous: int


def held(pids: Iterable[int], host: Host) -> Held:
    """Weights that are mapped count whole, for each of their pages is read sooner or later."""
    known = set(pids)
    anonymous = shared = weights = 0
    for pid in known:
        maps = list(_mappings(host.text(f"/proc/{pid}/smaps")))
        rollup = _rollup(host.text(f"/proc/{pid}/smaps_rollup"))
        anonymous += rollup.get("Pss_Anon", sum(m.anonymous for m in maps))
        shared += rollup.get("Pss_Shmem", 0)
        weights += sum(m.size for m in maps if m.path.endswith(WEIGHTS))
    return Held(anonymous, weights, gpu_memory(known, host), shared)


def _rollup(text: str) -> dict[str, int]:
    """/proc/PID/smaps_rollup, `Key: N kB` (Linux 4.14; the parts of Pss since 5.4)."""
    lines = (line.partition(":") for line in text.splitlines())
    return {key: int(rest.split()[0]) * KB for key, _, rest in lines if rest.endswith(" kB")}


def _mappings(text: str) -> Iterator[Mapping]:
    """/proc/PID/smaps: a line of addresses, five more fields and the path, then `Key: N kB`."""
    path, size = "", 0
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key == "Size":
            size = int(rest.split()[0]) * KB
        elif key == "Anonymous":
            yield Mapping(path, size, int(rest.split()[0]) * KB)
        elif "-" in line.split(" ", 1)[0]:
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) == 6 else ""


def gpu_memory(pids: set[int], host: Host) -> int | None:
    """Of these processes on all NVIDIA GPUs, contexts included; None where NVML names none."""
    try:
        nvml = host.nvml()
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        used = [size for pid, size in _processes(nvml) if pid in pids and size is not None]
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
    return sum(used) if used else None


def _processes(nvml: Any) -> Iterator[tuple[int, int | None]]:
    for number in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            yield process.pid, process.usedGpuMemory
