"""Accelerators of every vendor. Each vendor is asked only where the machine shows a trace of it."""

from __future__ import annotations

from kt_cli.probe import pci
from kt_cli.probe.found import Found
from kt_cli.probe.host import Host

# Traces in containers and virtual machines that hide the PCI bus (/dev/dxg: WSL).
NVIDIA_TRACES = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg")
AMD_TRACES = ("/sys/class/kfd/kfd/topology/nodes/0",)
ASCEND_TRACES = ("/dev/davinci_manager",)
INTEGRATED = "0000:00:02.0"


def read(host: Host) -> Found:
    cards = pci.cards(host)
    found = Found()
    if _trace(host, cards, pci.NVIDIA, NVIDIA_TRACES):
        from kt_cli.probe import nvidia

        found += _explained(nvidia.read(host), cards)
    # A processor's built-in display often has no driver; a card for computing always has one.
    if _trace(host, tuple(c for c in cards if c.driver), pci.AMD, AMD_TRACES):
        from kt_cli.probe import amd

        found += amd.read(host)
    if any(c.vendor == pci.INTEL and c.bus != INTEGRATED for c in cards):
        from kt_cli.probe import intel

        found += intel.read(host)
    if _trace(host, cards, pci.HUAWEI, ASCEND_TRACES):
        from kt_cli.probe import ascend

        found += ascend.read(host)
    return found


def _trace(host: Host, cards: tuple[pci.Card, ...], vendor: str, traces: tuple[str, ...]) -> bool:
    return any(c.vendor == vendor for c in cards) or any(host.exists(t) for t in traces)


def _explained(found: Found, cards: tuple[pci.Card, ...]) -> Found:
    """Adds why a card stays unseen: no driver at all, or one that leaves it to another system."""
    if found.gpus or not found.problems:
        return found
    orphans = [c for c in cards if c.vendor == pci.NVIDIA and c.driver != "nvidia"]
    why = tuple(
        f"the NVIDIA GPU at {card.bus} is held by "
        + (f"the driver `{card.driver}`" if card.driver else "no driver")
        for card in orphans
    )
    return found + Found(problems=why)
