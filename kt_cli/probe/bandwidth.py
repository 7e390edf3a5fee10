"""What this machine was measured to do. Measuring takes seconds, so the result is kept.

The measuring itself is `kt_moe.limits`, run in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from kt_cli import unfinished
from kt_cli.core.machine import Measured
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import read_toml
from kt_cli.errors import KtError
from kt_cli.probe import toml
from kt_cli.probe.host import Host

FILE = "measured.toml"

# limits.bandwidth gives bytes/s, limits.peak operations/s, 0 for what the processor lacks.
_SCRIPT = """
import json, sys
from kt_moe import limits
counts = [int(n) for n in sys.argv[1].split(",")]
size = int(sys.argv[2])
def ticks():
    try:
        with open("/proc/stat") as stat:
            return stat.readline()
    except OSError:
        return ""
read, stat = {}, {}
for n in counts:
    before = ticks()
    best = max(limits.bandwidth(n, size=size, seconds=0.3) for _ in range(2))
    read[str(n)], stat[str(n)] = best / 1e9, [before, ticks()]
kinds = {"fp32": ["fma"], "bf16": ["bf16", "amx-bf16"], "int8": ["int8", "amx-int8"]}
peaks = {name: max(limits.peak(kind, counts[-1]) for kind in of) for name, of in kinds.items()}
gops = {name: peak / 1e9 for name, peak in peaks.items() if peak}
print(json.dumps({"read_gbs": read, "gops": gops, "stat": stat}))
"""
BUFFER = 1 << 30
FEWEST = 4
"""Threads from which 0.6 s hold enough of the kernel's ticks (10 ms) to tell what was stolen."""


def load(cache: Path) -> Measured | None:
    """The kept measurement, None when there is none or it cannot be read."""
    try:
        return from_plain(Measured, read_toml(cache / FILE).values)
    except (KtError, ShapeError):
        return None


def save(cache: Path, measured: Measured) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    unfinished.write(cache / FILE, toml.write(to_plain(measured)))


def measure(
    host: Host,
    cores: int,
    available: int,
    *,
    python: str = sys.executable,
    timeout: float = 60.0,
) -> Measured | None:
    """Read bandwidth for a few thread counts and the peaks of all cores; None without kernels.

    `available` is the RAM that can be had, in bytes: the buffer read takes a quarter at most.
    """
    counts = ",".join(str(n) for n in thread_counts(cores))
    size = min(BUFFER, available // 4)
    ran = host.run((python, "-c", _SCRIPT, counts, str(size)), timeout)
    if ran.code:
        return None
    try:
        data = json.loads(ran.out.splitlines()[-1])
        pairs = data.pop("stat", {}).items()
        taken = {n: round(stolen(*pair), 3) for n, pair in pairs if int(n) >= FEWEST}
        rounded = {kind: {k: round(v, 1) for k, v in data[kind].items()} for kind in data}
        today = date.today().isoformat()
        return from_plain(Measured, {**rounded, "stolen": taken, "date": today})
    except (IndexError, ValueError, TypeError, AttributeError):
        return None


def stolen(before: str, after: str) -> float:
    """Share of the busy CPUs' time that the hypervisor took between two readings of /proc/stat.

    `cpu user nice system idle iowait irq softirq steal …` (proc(5)); 0 where `steal` is missing.
    A CPU that works or waits for the hypervisor is busy: memory that one thread fills before the
    others start counts for one CPU only.
    """
    then, now = ([int(n) for n in line.split()[1:9]] for line in (before, after))
    if min(len(then), len(now)) < 8:
        return 0.0
    passed = [max(0, b - a) for a, b in zip(then, now, strict=True)]
    working = sum(passed) - passed[3] - passed[4]
    return passed[7] / working if working else 0.0


def busy(host: Host, cores: int) -> bool:
    """Whether other work would spoil a measurement: more than a quarter of the cores are taken."""
    try:
        load = float(host.text("/proc/loadavg").split()[0])
    except (ValueError, IndexError):
        return False
    return load > cores / 4


def thread_counts(cores: int) -> Sequence[int]:
    """1, 2, 4, … and all cores."""
    powers = [1 << k for k in range(cores.bit_length()) if 1 << k < cores]
    return [*powers, cores]
