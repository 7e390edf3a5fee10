"""AMD GPUs: from the kernel's compute topology, or from rocm-smi where that is hidden."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kt_cli.core.machine import Gpu
from kt_cli.probe import answers, pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import MISSING, Host

TOPOLOGY = "/sys/class/kfd/kfd/topology/nodes"
INTEGRATED = 2 * 1024**3
"""With less VRAM than this a GPU is a processor's built-in display."""

WANTED = ("--showproductname", "--showmeminfo", "vram", "--showuniqueid", "--showbus")
ROCM_SMI = ("rocm-smi", *WANTED, "--json")


def read(host: Host) -> Found:
    nodes = host.names(TOPOLOGY)
    gpus = [gpu for name in nodes if (gpu := _from_kernel(host, name)) is not None]
    problems: tuple[str, ...] = ()
    if not nodes:
        gpus, problems = _from_tool(host)
    return Found(tuple(_visible(host, gpus)), _driver(host), "", problems)


def _visible(host: Host, gpus: list[Gpu]) -> list[Gpu]:
    """ROCR_VISIBLE_DEVICES acts first; HIP_VISIBLE_DEVICES (or CUDA's) counts what it leaves."""
    hip = host.env.get("HIP_VISIBLE_DEVICES", host.env.get("CUDA_VISIBLE_DEVICES"))
    for wanted in (host.env.get("ROCR_VISIBLE_DEVICES"), hip):
        gpus = [gpus[i] for i in visible.select(wanted, [(g.uuid,) for g in gpus])]
    return [replace(gpu, index=position) for position, gpu in enumerate(gpus)]


def _from_kernel(host: Host, name: str) -> Gpu | None:
    """None for the topology's CPU nodes and for graphics inside a processor."""
    lines = host.text(f"{TOPOLOGY}/{name}/properties").splitlines()
    pairs = (line.partition(" ") for line in lines)
    fields = {k: n for k, _, v in pairs if (n := answers.number(v)) is not None}
    if not fields.get("simd_count"):
        return None
    place = fields.get("location_id", 0)
    bus = f"{fields.get('domain', 0):04x}:{place >> 8 & 255:02x}:{place >> 3 & 31:02x}.{place & 7}"
    device = f"{pci.DEVICES}/{bus}"
    total = host.number(f"{device}/mem_info_vram_total") or 0
    if total < INTEGRATED:
        return None
    used = host.number(f"{device}/mem_info_vram_used") or 0
    version = fields.get("gfx_target_version", 0)
    link = pci.link(host, bus)
    return Gpu(
        index=0,
        name=host.text(f"{device}/product_name") or f"AMD {_gfx(version)}",
        vendor="amd",
        memory=total,
        free=max(0, total - used),
        uuid=f"GPU-{fields['unique_id']:016x}" if fields.get("unique_id") else "",
        capability=(version // 10000, version // 100 % 100),
        pcie_gen=link.gen,
        pcie_width=link.width,
        pcie_max_width=link.max_width,
        bus=bus,
        node=pci.node(host, bus),
    )


def _from_tool(host: Host) -> tuple[list[Gpu], tuple[str, ...]]:
    ran = host.run(ROCM_SMI, 10.0)
    if ran.code == MISSING:
        return [], ("AMD GPUs cannot be read: no `amdgpu` compute driver and no `rocm-smi`",)
    listed = answers.mapping(answers.parsed_json(ran.out))
    cards = [answers.mapping(card) for name, card in listed.items() if name.startswith("card")]
    gpus = [gpu for card in cards if (gpu := _card(host, card)) is not None]
    if len(gpus) < len(cards) or not listed:
        return gpus, (f"`rocm-smi` {ran.problem or 'answered something unreadable'}",)
    return gpus, ()


def _card(host: Host, card: Mapping[str, Any]) -> Gpu | None:
    """rocm-smi changed the case of its keys between releases. None without a size."""
    fields = {key.lower(): str(value) for key, value in card.items()}
    total = answers.number(fields.get("vram total memory (b)"))
    if total is None:
        return None
    used = answers.number(fields.get("vram total used memory (b)")) or 0
    unique = fields.get("unique id", "").removeprefix("0x")
    bus = pci.address(fields.get("pci bus", ""))
    return Gpu(
        index=0,
        name=fields.get("card series") or fields.get("card model") or "AMD GPU",
        vendor="amd",
        memory=total,
        free=max(0, total - used),
        uuid=f"GPU-{unique}" if unique and unique != "n/a" else "",
        capability=_capability(fields.get("gfx version", "")),
        bus=bus,
        node=pci.node(host, bus),
    )


def _gfx(version: int) -> str:
    """90402 → gfx942: major in decimal, minor and stepping as hexadecimal digits."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _capability(gfx: str) -> tuple[int, int] | None:
    """gfx942 → (9, 4)."""
    digits = gfx.removeprefix("gfx")
    if not re.fullmatch(r"[0-9]{1,3}[0-9a-f]{2}", digits):
        return None
    return int(digits[:-2]), int(digits[-2], 16)


def _driver(host: Host) -> str:
    version = host.text("/sys/module/amdgpu/version")
    return f"amdgpu {version}" if version else ""
