"""NVIDIA GPUs through NVML, in the order and number in which CUDA shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kt_cli.core.machine import Gpu
from kt_cli.probe import answers, pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import Host
from kt_cli.probe.meminfo import meminfo
from kt_cli.probe.nvml import Memory, Nvml, opened

SM_CLOCK = 1  # NVML_CLOCK_SM
MOST_INSTANCES = 64


@dataclass(frozen=True, slots=True)
class Board:
    """One card: itself, or its MIG instances when it is partitioned."""

    uuid: str
    speed: tuple[tuple[int, int], int]
    gpus: tuple[Gpu, ...]


def read(host: Host) -> Found:
    with opened(host) as nvml:
        return Found(problems=(nvml,)) if isinstance(nvml, str) else _read(host, nvml)


def _read(host: Host, nvml: Nvml) -> Found:
    boards, problems = [], []
    if problem := nvml.ask("nvmlDeviceGetCount").problem:
        problems.append(f"the NVIDIA driver stopped answering: {problem}")
    for position, handle in nvml.handles():
        if handle.problem:
            problems.append(f"NVIDIA GPU {position} does not answer: {handle.problem}")
            continue
        board = _board(host, nvml, handle.value)
        boards.append(board)
        if not all(gpu.memory for gpu in board.gpus):
            problems.append(f"NVIDIA GPU {position} does not say how much memory it has")
    return Found(
        gpus=tuple(_visible(host, boards)),
        driver=nvml.text("nvmlSystemGetDriverVersion"),
        cuda=_cuda(nvml.number("nvmlSystemGetCudaDriverVersion_v2") or 0),
        problems=tuple(problems),
    )


def _visible(host: Host, boards: list[Board]) -> list[Gpu]:
    """CUDA counts the fastest card first unless CUDA_DEVICE_ORDER asks for the bus order."""
    if host.env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        boards = sorted(boards, key=lambda b: b.speed, reverse=True)
    wanted = host.env.get("CUDA_VISIBLE_DEVICES")
    if wanted is not None and "MIG-" in wanted:
        gpus = [gpu for board in boards for gpu in board.gpus]
        gpus = [gpus[i] for i in visible.select(wanted, [(g.uuid,) for g in gpus])]
    else:
        chosen = [boards[i] for i in visible.select(wanted, [(b.uuid,) for b in boards])]
        # A partitioned card picked as a whole shows its first instance only.
        gpus = [g for b in chosen for g in (b.gpus if wanted is None else b.gpus[:1])]
    return [replace(gpu, index=position) for position, gpu in enumerate(gpus)]


def _board(host: Host, nvml: Nvml, handle: Any) -> Board:
    capability = answers.pair(nvml.ask("nvmlDeviceGetCudaComputeCapability", handle).value)
    place = getattr(nvml.ask("nvmlDeviceGetPciInfo", handle).value, "busId", "")
    bus = pci.address(answers.text(place))
    link = pci.link(host, bus)
    memory = _memory(host, nvml, handle)
    whole = Gpu(
        index=0,
        name=nvml.text("nvmlDeviceGetName", handle) or "NVIDIA GPU",
        vendor="nvidia",
        memory=memory.total,
        free=memory.free,
        uuid=nvml.text("nvmlDeviceGetUUID", handle),
        capability=capability,
        # An idle card slows its link down, so the current generation says nothing.
        pcie_gen=nvml.number("nvmlDeviceGetMaxPcieLinkGeneration", handle) or link.gen,
        pcie_width=nvml.number("nvmlDeviceGetCurrPcieLinkWidth", handle) or link.width,
        pcie_max_gen=nvml.number("nvmlDeviceGetGpuMaxPcieLinkGeneration", handle),
        pcie_max_width=nvml.number("nvmlDeviceGetMaxPcieLinkWidth", handle) or link.max_width,
        bus=bus,
        node=pci.node(host, bus),
        unified=memory.unified,
    )
    cores = nvml.number("nvmlDeviceGetNumGpuCores", handle) or 0
    clock = nvml.number("nvmlDeviceGetMaxClockInfo", handle, SM_CLOCK) or 0
    parts = _instances(nvml, handle, whole)
    speed = (capability or (0, 0), cores * clock)
    return Board(whole.uuid, speed, (whole,) if parts is None else parts)


def _memory(host: Host, nvml: Nvml, handle: Any) -> Memory:
    """0 where unknown; a card without memory of its own (GB10, Thor) works in the system's."""
    memory = nvml.memory(handle)
    if memory is None:
        return Memory(0, 0)
    if not memory.unified:
        return memory
    fields = meminfo(host.text("/proc/meminfo"))
    total = fields.get("MemTotal", 0)
    return Memory(total, min(total, fields.get("MemAvailable", 0)), unified=True)


def _instances(nvml: Nvml, handle: Any, whole: Gpu) -> tuple[Gpu, ...] | None:
    """The MIG instances of a partitioned card; None when the card is not partitioned."""
    mode = answers.pair(nvml.ask("nvmlDeviceGetMigMode", handle).value)
    if not mode or mode[0] != 1:
        return None
    slots = min(nvml.number("nvmlDeviceGetMaxMigDeviceCount", handle) or 0, MOST_INSTANCES)
    parts = (nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot) for slot in range(slots))
    return tuple(_instance(nvml, part.value, whole) for part in parts if not part.problem)


def _instance(nvml: Nvml, part: Any, whole: Gpu) -> Gpu:
    memory = nvml.memory(part) or Memory(0, 0)
    return replace(
        whole,
        name=nvml.text("nvmlDeviceGetName", part) or whole.name,
        memory=memory.total,
        free=memory.free,
        uuid=nvml.text("nvmlDeviceGetUUID", part),
        mig=True,
    )


def _cuda(version: int) -> str:
    """12080 → 12.8."""
    return f"{version // 1000}.{version % 1000 // 10}" if version else ""
