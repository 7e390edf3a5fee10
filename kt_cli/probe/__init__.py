"""Reads the machine into a `Machine`. Each part takes a `Host`: this one or a captured tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kt_cli import environment
from kt_cli.core.machine import Gpu, Machine, Measured, NumaNode
from kt_cli.probe import cpu, disk, gpu, memory, numa, stack, system
from kt_cli.probe.host import Host

__all__ = ["Host", "machine"]


def machine(
    root: Path = Path("/"),
    *,
    home: Path | None = None,
    deep: bool = False,
    host: Host | None = None,
    environments: Sequence[stack.Environment] | None = None,
) -> Machine:
    """The machine below `root`. `home` is KT_HOME: its disk, engines and kept measurements count.

    Cheap by default (milliseconds); `deep` really loads each engine in a process of its own.
    """
    host = host or Host(root)
    nodes = numa.read(host)
    found = gpu.read(host)
    cache = home / "cache" if home else None
    if environments is None:
        environments = stack.environments(home) if host.live else ()
    return Machine(
        name=host.text("/proc/sys/kernel/hostname") or "machine",
        cpu=cpu.read(host),
        nodes=nodes,
        memory=memory.read(host, nodes),
        gpus=tuple(_near(card, nodes) for card in found.gpus),
        disks=disk.read(host, _places(host, home)),
        engines=stack.read(host, environments, deep=deep, cache=cache),
        measured=_measured(cache),
        system=system.read(host, found),
        source="this machine" if host.live else str(host.root),
        problems=found.problems,
    )


def _near(card: Gpu, nodes: tuple[NumaNode, ...]) -> Gpu:
    """Firmware often leaves the node out where there is only one to name."""
    populated = [node.id for node in nodes if node.cpus]
    if card.node is None and len(populated) == 1:
        return replace(card, node=populated[0])
    return card


def _places(host: Host, home: Path | None) -> list[Path]:
    return [*([home] if home else []), environment.hub_cache(host.env)]


def _measured(cache: Path | None) -> Measured:
    if cache is None or not (cache / "measured.toml").is_file():
        return Measured()
    from kt_cli.probe import bandwidth

    return bandwidth.load(cache) or Measured()
