"""What the control groups grant this process: CPUs, CPU time, memory; versions 1, 2 and both.

A limit may sit on any level between the process's own group and the root, so every reader walks up
(Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from kt_cli.probe import answers, cpulist
from kt_cli.probe.host import Host


class MemoryLimit(NamedTuple):
    limit: int
    available: int
    """Limit − what is in use and cannot simply be dropped (the page cache can)."""


class _Mount(NamedTuple):
    root: str
    """The part of the hierarchy that is visible, as a path inside it."""
    point: str
    controllers: frozenset[str]
    """Empty for version 2."""


def cpus(host: Host) -> tuple[int, ...]:
    """CPUs of the cpuset, empty when there is none."""
    for level in _levels(host, "cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            if found := cpulist.lenient(host.text(f"{level}/{name}")):
                return found
    return ()


def quota(host: Host) -> float | None:
    """CPUs' worth of time: the tightest of all levels, None for no limit."""
    quotas = [q for level in _levels(host, "cpu") if (q := _quota(host, level)) is not None]
    return min(quotas, default=None)


def memory(host: Host) -> MemoryLimit | None:
    """The level that leaves least; None when no level limits."""
    found = [m for level in _levels(host, "memory") if (m := _memory(host, level)) is not None]
    if not found:
        return None
    return MemoryLimit(min(m.limit for m in found), min(m.available for m in found))


def _quota(host: Host, level: str) -> float | None:
    limit, _, period = host.text(f"{level}/cpu.max").partition(" ")
    if not limit:
        limit = host.text(f"{level}/cpu.cfs_quota_us")
        period = host.text(f"{level}/cpu.cfs_period_us")
    granted, each = answers.number(limit, least=1), answers.number(period or 100_000, least=1)
    return granted / each if granted and each else None


def _memory(host: Host, level: str) -> MemoryLimit | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    limits = [n for name in names if (n := host.number(f"{level}/{name}")) is not None]
    # Version 1 writes "no limit" as the largest multiple of the page size in 63 bits.
    limits = [limit for limit in limits if limit < 1 << 62]
    if not limits:
        return None
    used = host.number(f"{level}/memory.current") or host.number(f"{level}/memory.usage_in_bytes")
    cached = _droppable(host.text(f"{level}/memory.stat"))
    limit = min(limits)
    return MemoryLimit(limit, max(0, min(limit, limit - (used or 0) + cached)))


_DROPPABLE = ("active_file", "inactive_file", "slab_reclaimable")


def _droppable(stat: str) -> int:
    """Page cache and slabs, which the kernel gives up when the group needs memory.

    Version 1 counts the groups below under `total_…` and says nothing of slabs. Locked pages and
    shared memory are on other lists.
    """
    pairs = (line.split() for line in stat.splitlines())
    fields = {pair[0]: answers.number(pair[1]) or 0 for pair in pairs if len(pair) == 2}
    return sum(fields.get(f"total_{name}", fields.get(name, 0)) for name in _DROPPABLE)


def _levels(host: Host, controller: str) -> Iterator[str]:
    """Directories of the process's group and its parents, innermost first; version 1 wins."""
    groups = _groups(host)
    for mount in sorted(_mounts(host), key=lambda m: not m.controllers):
        if mount.controllers and controller not in mount.controllers:
            continue
        path = groups.get(controller if mount.controllers else "")
        if path is not None:
            yield from _climb(host, mount, path)
            if mount.controllers:
                return


def _climb(host: Host, mount: _Mount, path: str) -> Iterator[str]:
    """A container without a cgroup namespace sees its group's host path; the mount hides a part."""
    inside = PurePosixPath("/")
    if PurePosixPath(path).is_relative_to(mount.root):
        inside = "/" / PurePosixPath(path).relative_to(mount.root)
    if not host.exists(mount.point + str(inside)):
        inside = PurePosixPath("/")
    for level in (inside, *inside.parents):
        yield mount.point + str(level).rstrip("/")


def _groups(host: Host) -> dict[str, str]:
    """Controller → path of this process's group; "" for version 2."""
    found: dict[str, str] = {}
    for line in host.text("/proc/self/cgroup").splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            found.update(dict.fromkeys(parts[1].split(","), parts[2]))
    return found


def _mounts(host: Host) -> list[_Mount]:
    """proc_pid_mountinfo(5): id parent dev root point options … - type source super-options."""
    found = []
    for line in host.text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            names = kind[2].split(",") if kind[0] == "cgroup" else []
            found.append(_Mount(place[3], place[4], frozenset(names)))
    return found
