"""Limits and settings of the system that cost speed or break things."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.machine import Machine
from kt_cli.core.units import gb
from kt_cli.doctor.facts import Facts
from kt_cli.doctor.finding import Finding, ok, warning

MEMLOCK = 8 * 2**20
"""What current distributions grant; less stops pinned staging buffers."""
FILES = 1024
SHM = 2**30
THP = "/sys/kernel/mm/transparent_hugepage/enabled"
GOVERNORS = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
# In these drivers `powersave` still runs at full speed under load (Linux: admin-guide/pm).
SELF_DRIVING = ("intel_pstate", "amd-pstate-epp")


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    found = [
        *_memlock(facts),
        *_files(facts),
        *_shm(machine, facts),
        *_hugepages(machine),
        *_governor(machine, facts),
        *_balancing(machine),
        *_binding(machine, facts),
    ]
    yield from found or [ok("limits", "no limit or kernel setting costs speed")]


def _memlock(facts: Facts) -> Iterator[Finding]:
    soft, hard = facts.limits.get("Max locked memory", (MEMLOCK, MEMLOCK))
    if soft < MEMLOCK:
        yield warning(
            "memlock",
            what=f"only {soft / 1024:.0f} kB may be locked in memory",
            why="staging buffers cannot be pinned and weights may be swapped out, so tokens/s drop",
            fix="run `ulimit -l unlimited`"
            if hard > soft
            else "add `* - memlock unlimited` to /etc/security/limits.conf and log in again, "
            "or start the container with `--ulimit memlock=-1`",
        )


def _files(facts: Facts) -> Iterator[Finding]:
    soft, hard = facts.limits.get("Max open files", (FILES, FILES))
    if soft < FILES:
        yield warning(
            "open-files",
            what=f"only {soft:.0f} files may be open",
            why="a sharded checkpoint and a busy server fail with `too many open files`",
            fix=f"run `ulimit -n {min(hard, 65536):.0f}`"
            if hard > soft
            else "raise `nofile` in /etc/security/limits.conf and log in again",
        )


def _shm(machine: Machine, facts: Facts) -> Iterator[Finding]:
    if facts.shm is not None and facts.shm < SHM and machine.gpus:
        yield warning(
            "shm",
            f"/dev/shm holds only {gb(facts.shm)}",
            why="SGLang's workers share buffers there and die of `bus error` when it is full",
            fix="start the container with `--shm-size 16g`",
        )


def _hugepages(machine: Machine) -> Iterator[Finding]:
    if machine.memory.hugepages == "never":
        yield warning(
            "huge-pages",
            "transparent huge pages are off",
            why="reading experts through 4 kB pages costs a part of the memory bandwidth",
            fix=f"run `echo madvise | sudo tee {THP}`",
            repair=("sh", "-c", f"echo madvise > {THP}"),
        )


def _governor(machine: Machine, facts: Facts) -> Iterator[Finding]:
    driver = facts.scaling_driver
    if machine.system.governor != "powersave" or not driver or driver in SELF_DRIVING:
        return
    yield warning(
        "governor",
        "the CPU frequency governor is `powersave`",
        why=f"with the driver `{driver}` cores stay at their lowest "
        "clock, so prefill slows down with it",
        fix=f"run `echo performance | sudo tee {GOVERNORS}`",
        repair=("sh", "-c", f"echo performance | tee {GOVERNORS} > /dev/null"),
    )


def _balancing(machine: Machine) -> Iterator[Finding]:
    if machine.system.numa_balancing and len(machine.worker_nodes) > 1:
        yield warning(
            "numa-balancing",
            "automatic NUMA balancing is on",
            why="the kernel unmaps and moves expert weights between sockets while they are read: "
            "tokens/s drop and waver",
            fix="run `sudo sysctl -w kernel.numa_balancing=0`",
            repair=("sysctl", "-w", "kernel.numa_balancing=0"),
        )


def _binding(machine: Machine, facts: Facts) -> Iterator[Finding]:
    if not facts.binding:
        return
    several = len(machine.worker_nodes) > 1
    yield Finding(
        "memory-binding",
        "warning" if several else "info",
        what=f"memory cannot be bound to a NUMA node ({facts.binding})",
        why="experts land on the wrong socket and are read across the link between sockets, at a "
        "fraction of the local bandwidth"
        if several
        else "without effect on one node, except for SGLang's layer-wise prefill, which binds too",
        fix="start the container with `--cap-add SYS_NICE` (or a seccomp profile that allows mbind)"
        if facts.binding == "EPERM"
        else "use a kernel with NUMA support",
    )
