"""The disks that matter: kt's home and the model cache."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kt_cli.core.machine import Disk
from kt_cli.probe.host import Host

VIRTUAL = ("vd", "xvd")


def read(host: Host, places: Iterable[Path]) -> tuple[Disk, ...]:
    """One entry per place, places on the same file system kept apart; unreadable ones left out."""
    return tuple(disk for place in places if (disk := _disk(host, place)) is not None)


def rotational(host: Host, place: Path) -> bool | None:
    """True for a spinning disk, False for a solid one, None for memory, networks and unknowns."""
    number, source, _ = _mount(host, place)
    for block in host.names("/sys/block"):
        spins = host.number(f"/sys/block/{block}/queue/rotational")
        if spins is not None and _is_on(host, block, number, source):
            # A virtual disk claims to spin whatever lies below it.
            return None if spins and block.startswith(VIRTUAL) else bool(spins)
    return None


def _disk(host: Host, place: Path) -> Disk | None:
    try:
        total, free = host.usage(existing(host, place))
    except (OSError, ValueError):
        return None
    return Disk(str(place), total, free, rotational(host, place), _mount(host, place)[2])


def existing(host: Host, place: Path) -> Path:
    """The nearest parent that is there already."""
    for candidate in (place, *place.parents):
        if host.exists(str(candidate)):
            return candidate
    return Path("/")


def _is_on(host: Host, block: str, number: str, source: str) -> bool:
    """Matches the device or one of its partitions, by number or (btrfs, zfs) by device file."""
    parts = [block, *(f"{block}/{name}" for name in host.names(f"/sys/block/{block}", block))]
    names = {part.rpartition("/")[2] for part in parts}
    return source.removeprefix("/dev/") in names or any(
        host.text(f"/sys/block/{part}/dev") == number for part in parts
    )


def _mount(host: Host, place: Path) -> tuple[str, str, str]:
    """(major:minor, source, point) of the mount that holds the path: the longest point wins."""
    best = ("", "", "")
    for line in host.text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 2:
            continue
        point = fields[4].replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= len(best[2]):
            best = (fields[2], kind[1], point)
    return best
