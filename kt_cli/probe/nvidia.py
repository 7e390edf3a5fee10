"""NVIDIA GPUs through NVML, in the order and number in which CUDA shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from kt_cli.core.machine import Gpu
from kt_cli.probe import pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import Host

T = TypeVar("T")

SM_CLOCK = 1  # NVML_CLOCK_SM


@dataclass(frozen=True, slots=True)
class Board:
    """One card: itself, or its MIG instances when it is partitioned."""

    uuid: str
    speed: tuple[tuple[int, int], int]
    gpus: tuple[Gpu, ...]


def read(host: Host) -> Found:
    try:
        nvml = host.nvml()
    except ImportError:
        return Found(problems=("`nvidia-ml-py` is not installed, so GPUs cannot be read",))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Found(problems=(f"the NVIDIA driver does not answer: {error}",))
    try:
        return _read(host, nvml)
    except nvml.NVMLError as error:
        return Found(problems=(f"the NVIDIA driver stopped answering: {error}",))
    finally:
        nvml.nvmlShutdown()


def _read(host: Host, nvml: Any) -> Found:
    boards, problems = [], []
    for position in range(nvml.nvmlDeviceGetCount()):
        try:
            boards.append(_board(host, nvml, nvml.nvmlDeviceGetHandleByIndex(position)))
        except nvml.NVMLError as error:
            problems.append(f"NVIDIA GPU {position} does not answer: {error}")
    return Found(
        gpus=tuple(_visible(host, boards)),
        driver=_text(_ask(nvml, nvml.nvmlSystemGetDriverVersion) or ""),
        cuda=_cuda(_ask(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2) or 0),
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


def _board(host: Host, nvml: Any, handle: Any) -> Board:
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    bus = pci.address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId))
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    whole = Gpu(
        index=0,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        vendor="nvidia",
        memory=memory.total,
        free=memory.free,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        capability=(major, minor),
        # An idle card slows its link down, so the current generation says nothing.
        pcie_gen=_ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
        pcie_width=_ask(nvml, nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        pcie_max_gen=_ask(nvml, nvml.nvmlDeviceGetGpuMaxPcieLinkGeneration, handle),
        pcie_max_width=_ask(nvml, nvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
        bus=bus,
        node=pci.node(host, bus),
    )
    cores = _ask(nvml, nvml.nvmlDeviceGetNumGpuCores, handle) or 0
    clock = _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, SM_CLOCK) or 0
    parts = _instances(nvml, handle, whole)
    return Board(whole.uuid, ((major, minor), cores * clock), (whole,) if parts is None else parts)


def _instances(nvml: Any, handle: Any, whole: Gpu) -> tuple[Gpu, ...] | None:
    """The MIG instances of a partitioned card; None when the card is not partitioned."""
    mode = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or mode[0] != 1:
        return None
    parts = []
    for slot in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        part = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, slot)
        if part is not None:
            memory = nvml.nvmlDeviceGetMemoryInfo(part)
            parts.append(
                replace(
                    whole,
                    name=_text(nvml.nvmlDeviceGetName(part)),
                    memory=memory.total,
                    free=memory.free,
                    uuid=_text(nvml.nvmlDeviceGetUUID(part)),
                    mig=True,
                )
            )
    return tuple(parts)


def _ask(nvml: Any, function: Callable[..., T], *arguments: Any) -> T | None:
    """None for what this card or driver does not know."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


def _cuda(version: int) -> str:
    """12080 → 12.8."""
    return f"{version // 1000}.{version % 1000 // 10}" if version else ""


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
