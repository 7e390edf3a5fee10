"""What processes hold: memory of their own, weights used where their file is mapped, GPU memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kt_cli.probe import answers
from kt_cli.probe.host import Host
from kt_cli.probe.nvml import Nvml, opened

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
    return {key: _kb(rest) for key, _, rest in lines if rest.endswith(" kB")}


def _kb(text: str) -> int:
    """`12 kB` in bytes."""
    return (answers.number((text.split() or [""])[0]) or 0) * KB


def _mappings(text: str) -> Iterator[Mapping]:
    """/proc/PID/smaps: a line of addresses, five more fields and the path, then `Key: N kB`."""
    path, size = "", 0
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        if key == "Size":
            size = _kb(rest)
        elif key == "Anonymous":
            yield Mapping(path, size, _kb(rest))
        elif "-" in line.split(" ", 1)[0]:
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) == 6 else ""


def gpu_memory(pids: set[int], host: Host) -> int | None:
    """Of these processes on all NVIDIA GPUs, contexts included; None where NVML names none."""
    with opened(host) as nvml:
        if isinstance(nvml, str):
            return None
        used = [size for pid, size in _processes(nvml) if pid in pids]
    return sum(used) if used else None


def _processes(nvml: Nvml) -> Iterator[tuple[int, int]]:
    for _, handle in nvml.handles():
        running = nvml.ask("nvmlDeviceGetComputeRunningProcesses", handle.value).value
        for process in answers.listing(running):
            pid = answers.number(getattr(process, "pid", None))
            size = answers.number(getattr(process, "usedGpuMemory", None))
            if pid is not None and size is not None:
                yield pid, size
