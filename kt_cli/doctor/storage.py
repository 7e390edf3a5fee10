"""Disks: room for models and the time to load them."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.machine import Disk, Machine
from kt_cli.core.units import GB, gb
from kt_cli.doctor.facts import Facts
from kt_cli.doctor.finding import Finding, error, ok, warning

FULL = GB
LITTLE = 30 * GB
SLOW_GBS = 0.3


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    if facts.packs:
        what = f"packed experts take {gb(facts.packs)}, which later starts need not pack again"
        yield ok("disk-packs", f"{what}; `kt model packs --clear` frees it")
    seen: set[str] = set()
    for disk in machine.disks:
        place = disk.mount or disk.path
        if place not in seen:
            seen.add(place)
            yield _room(disk)
            yield from _speed(disk, facts.read_gbs.get(disk.path))


def _room(disk: Disk) -> Finding:
    what = f"{disk.path}: {gb(disk.free)} of {gb(disk.total)} free"
    fix = f"free some, or use another disk: `export {_variable(disk)}=/other/disk`"
    if disk.free < FULL:
        why = "downloads, caches and logs fail: even the demo needs room"
        return error("disk-full", what, why, fix)
    if disk.free < LITTLE:
        why = "a 30B model in 4 bits takes about 20 GB, the largest ones 400 GB and more"
        return warning("disk-room", what, why, fix)
    return ok("disk-room", what)


def _variable(disk: Disk) -> str:
    """The hub's cache is the place that ends in `hub`."""
    return "HF_HOME" if disk.path.endswith("/hub") else "KT_HOME"


def _speed(disk: Disk, read_gbs: float | None) -> Iterator[Finding]:
    minutes = f"{100 / read_gbs / 60:.0f} minutes" if read_gbs else "ten minutes and more"
    if (read_gbs is not None and read_gbs < SLOW_GBS) or (read_gbs is None and disk.rotational):
        kind = "a spinning disk" if disk.rotational else "slow"
        speed = f" ({read_gbs:.2f} GB/s)" if read_gbs else ""
        yield warning(
            "disk-speed",
            f"{disk.path} is {kind}{speed}",
            why=f"loading 100 GB of weights takes {minutes} at every start",
            fix=f"keep models on an NVMe disk: `export {_variable(disk)}=/fast/disk`",
        )
    elif read_gbs is not None:
        yield ok("disk-speed", f"{disk.path} reads {read_gbs:.1f} GB/s")
