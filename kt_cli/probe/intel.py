"""Intel GPUs through xpu-smi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kt_cli.core.machine import Gpu
from kt_cli.probe import answers, pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import MISSING, Host

DISCOVER = ("xpu-smi", "discovery", "-j")


def read(host: Host) -> Found:
    ran = host.run(DISCOVER, 10.0)
    if ran.code == MISSING:
        return Found(problems=("Intel GPUs cannot be read: `xpu-smi` is not installed",))
    listed = answers.mapping(answers.parsed_json(ran.out)).get("device_list")
    if not isinstance(listed, list):
        return Found(problems=(f"`xpu-smi` {ran.problem or 'answered something unreadable'}",))
    items = [answers.mapping(item) for item in listed]
    gpus = [_gpu(host, item) for item in items if item and item.get("device_type", "GPU") == "GPU"]
    return Found(tuple(_visible(host, gpus)), _driver(host, items))


def _visible(host: Host, gpus: list[Gpu]) -> list[Gpu]:
    """ZE_AFFINITY_MASK names devices, or tiles of them as device.tile."""
    mask = host.env.get("ZE_AFFINITY_MASK")
    if mask is not None:
        mask = ",".join(dict.fromkeys(entry.partition(".")[0] for entry in mask.split(",")))
    chosen = [gpus[i] for i in visible.select(mask, [(g.uuid,) for g in gpus])]
    return [replace(gpu, index=position) for position, gpu in enumerate(chosen)]


def _gpu(host: Host, item: Mapping[str, Any]) -> Gpu:
    details = _details(host, item)
    bus = pci.address(answers.text(item.get("pci_bdf_address")))
    total = answers.number(details.get("memory_physical_size_byte")) or 0
    free = answers.number(details.get("memory_free_size_byte"))
    link = pci.link(host, bus)
    return Gpu(
        index=0,
        name=answers.text(item.get("device_name")) or "Intel GPU",
        vendor="intel",
        memory=total,
        free=total if free is None else min(total, free),
        uuid=answers.text(item.get("uuid")),
        pcie_gen=link.gen,
        pcie_width=link.width,
        pcie_max_width=link.max_width,
        bus=bus,
        node=pci.node(host, bus),
    )


def _details(host: Host, item: Mapping[str, Any]) -> Mapping[str, Any]:
    number = answers.number(item.get("device_id"))
    if number is None:
        return {}
    ran = host.run(("xpu-smi", "discovery", "-d", str(number), "-j"), 10.0)
    return answers.mapping(answers.parsed_json(ran.out))


def _driver(host: Host, listed: list[Mapping[str, Any]]) -> str:
    return answers.text(_details(host, listed[0]).get("driver_version")) if listed else ""
