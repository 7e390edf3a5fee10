"""Display and accelerator cards on the PCI bus, whether a driver holds them or not."""

from __future__ import annotations

import re
from typing import NamedTuple

from kt_cli.probe.host import Host

DEVICES = "/sys/bus/pci/devices"
NVIDIA, AMD, INTEL, HUAWEI = "10de", "1002", "8086", "19e5"

# PCI classes: 03 display controllers, 12 processing accelerators.
_CLASSES = ("3", "12")
_GENERATION = {"2.5": 1, "5.0": 2, "8.0": 3, "16.0": 4, "32.0": 5, "64.0": 6}


class Card(NamedTuple):
    bus: str
    vendor: str
    """Four hexadecimal digits in lower case."""
    driver: str
    """Empty when no driver is bound."""


class Link(NamedTuple):
    gen: int | None
    width: int | None
    max_width: int | None


def cards(host: Host) -> tuple[Card, ...]:
    found = (_card(host, bus) for bus in host.names(DEVICES))
    return tuple(card for card in found if card is not None)


def node(host: Host, bus: str) -> int | None:
    """Nearest NUMA node, None when the firmware does not say."""
    near = host.number(f"{DEVICES}/{bus}/numa_node")
    return None if near is None or near < 0 else near


def link(host: Host, bus: str) -> Link:
    """Generation at full speed (an idle card slows its link down) and the width now."""
    place = f"{DEVICES}/{bus}"
    speed = host.text(f"{place}/max_link_speed").split(" ")[0]
    width = host.number(f"{place}/current_link_width")
    return Link(_GENERATION.get(speed), width or None, host.number(f"{place}/max_link_width"))


def address(text: str) -> str:
    """Bus addresses as sysfs writes them: 00000000:17:00.0 and 17:00.0 → 0000:17:00.0."""
    found = re.fullmatch(r"(?:([0-9a-f]+):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", text.strip().lower())
    return f"{int(found[1] or '0', 16):04x}:{found[2]}" if found else text


def _card(host: Host, bus: str) -> Card | None:
    lines = host.text(f"{DEVICES}/{bus}/uevent").splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    kind = fields.get("PCI_CLASS", "")
    if len(kind) < 5 or kind[:-4] not in _CLASSES:
        return None
    vendor = fields.get("PCI_ID", "").partition(":")[0].lower()
    return Card(bus, vendor, fields.get("DRIVER", ""))
