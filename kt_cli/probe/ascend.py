"""Huawei Ascend NPUs through npu-smi, which prints a table and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.machine import Gpu
from kt_cli.probe import pci, visible
from kt_cli.probe.found import Found
from kt_cli.probe.host import MISSING, Host

MIB = 1024**2

# A device takes two rows:
# | 0  910B3 | OK           | 98.7  39         0 / 0        |
# | 0        | 0000:C1:00.0 | 0     0 / 0   3349 / 65536    |
_NAME = re.compile(r"^\|\s*(\d+)\s+(\S+)\s*\|\s*(\S+)\s*\|")
_CHIP = re.compile(r"^\|\s*\d+(?:\s+\d+)?\s*\|\s*([0-9A-Fa-f:.]+)\s*\|(.*)\|\s*\Z")
_USAGE = re.compile(r"([0-9]{1,12})\s*/\s*([0-9]{1,12})")
_VERSION = re.compile(r"npu-smi\s+(\S+)")


def read(host: Host) -> Found:
    ran = host.run(("npu-smi", "info"), 10.0)
    if ran.code == MISSING:
        return Found(problems=("Ascend NPUs cannot be read: `npu-smi` is not installed",))
    if ran.code:
        return Found(problems=(f"`npu-smi` {ran.problem}",))
    version = _VERSION.search(ran.out)
    gpus = list(_devices(host, ran.out))
    wanted = host.env.get("ASCEND_RT_VISIBLE_DEVICES")
    chosen = [gpus[i] for i in visible.select(wanted, [(g.uuid,) for g in gpus])]
    return Found(
        tuple(replace(gpu, index=position) for position, gpu in enumerate(chosen)),
        driver=version.group(1) if version else "",
    )


def _devices(host: Host, table: str) -> Iterator[Gpu]:
    name = ""
    for line in table.splitlines():
        if chip := _CHIP.match(line):
            usage = _USAGE.findall(chip[2])
            if name and usage:
                yield _gpu(host, name, pci.address(chip[1]), usage)
        elif row := _NAME.match(line):
            name = row[2]


def _gpu(host: Host, name: str, bus: str, usage: list[tuple[str, str]]) -> Gpu:
    """The last pair is the high-bandwidth memory; cards without it fill the first pair."""
    used, total = max(((int(a), int(b)) for a, b in usage), key=lambda pair: pair[1])
    link = pci.link(host, bus)
    return Gpu(
        index=0,
        name=f"Ascend {name}",
        vendor="ascend",
        memory=total * MIB,
        free=max(0, total - used) * MIB,
        pcie_gen=link.gen,
        pcie_width=link.width,
        pcie_max_width=link.max_width,
        bus=bus,
        node=pci.node(host, bus),
    )
