"""Intel GPUs through xpu-smi."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kt_cli.core.machine import Gpu
from kt_cli.probe import pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import MISSING, Host

DISCOVER = ("xpu-smi", "discovery", "-j")


def read(host: Host) -> Found:
    ran = host.run(DISCOVER, 10.0)
    if ran.code == MISSING:
        return Found(problems=("Intel GPUs cannot be read: `xpu-smi` is not installed",))
    try:
        listed = json.loads(ran.out)["device_list"]
        gpus = [_gpu(host, item) for item in listed if item.get("device_type", "GPU") == "GPU"]
        driver = _driver(host, listed)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Found(problems=(f"`xpu-smi` {ran.problem or 'answered something unreadable'}",))
    return Found(tuple(_visible(host, gpus)), driver)


def _visible(host: Host, gpus: list[Gpu]) -> list[Gpu]:
    """ZE_AFFINITY_MASK names devices, or tiles of them as device.tile."""
    mask = host.env.get("ZE_AFFINITY_MASK")
    if mask is not None:
        mask = ",".join(dict.fromkeys(entry.partition(".")[0] for entry in mask.split(",")))
    chosen = [gpus[i] for i in visible.select(mask, [(g.uuid,) for g in gpus])]
    return [replace(gpu, index=position) for position, gpu in enumerate(chosen)]


def _gpu(host: Host, item: Mapping[str, Any]) -> Gpu:
    details = _details(host, item)
    bus = pci.address(str(item.get("pci_bdf_address", "")))
    total = int(details.get("memory_physical_size_byte", 0))
    link = pci.link(host, bus)
    return Gpu(
        index=0,
        name=str(item["device_name"]),
        vendor="intel",
        memory=total,
        free=int(details.get("memory_free_size_byte", total)),
        uuid=str(item.get("uuid", "")),
        pcie_gen=link.gen,
        pcie_width=link.width,
        pcie_max_width=link.max_width,
        bus=bus,
        node=pci.node(host, bus),
    )


def _details(host: Host, item: Mapping[str, Any]) -> Mapping[str, Any]:
    ran = host.run(("xpu-smi", "discovery", "-d", str(item["device_id"]), "-j"), 10.0)
    found = json.loads(ran.out or "{}")
    return found if isinstance(found, dict) else {}


def _driver(host: Host, listed: list[Mapping[str, Any]]) -> str:
    return str(_details(host, listed[0]).get("driver_version", "")) if listed else ""
