"""What this machine was measured to do. Measuring takes seconds, so the result is kept.

The measuring itself is `kt_moe.limits`, run in a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from kt_cli.core.machine import Measured
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.probe import toml
from kt_cli.probe.host import Host

FILE = "measured.toml"

_SCRIPT = """
import json, sys
from kt_moe import limits
counts = [int(n) for n in sys.argv[1].split(",")]
read = {str(n): limits.bandwidth(n) for n in counts}
gops = {}
for kind in ("fp32", "bf16", "int8"):
    try:
        gops[kind] = limits.peak(kind, counts[-1])
    except ValueError:
        pass
print(json.dumps({"read_gbs": read, "gops": gops}))
"""


def load(cache: Path) -> Measured | None:
    """The kept measurement, None when there is none or it cannot be read."""
    try:
        return from_plain(Measured, toml.parse((cache / FILE).read_text()))
    except (OSError, ShapeError, ValueError):
        return None


def save(cache: Path, measured: Measured) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    fresh = cache / f"{FILE}.{os.getpid()}"
    fresh.write_text(toml.write(to_plain(measured)))
    fresh.replace(cache / FILE)


def measure(
    host: Host, cores: int, *, python: str = sys.executable, timeout: float = 60.0
) -> Measured | None:
    """Read bandwidth for a few thread counts and the peaks of all cores; None without kernels."""
    counts = ",".join(str(n) for n in thread_counts(cores))
    ran = host.run((python, "-c", _SCRIPT, counts), timeout)
    if ran.code:
        return None
    try:
        data = json.loads(ran.out.splitlines()[-1])
        return from_plain(Measured, {**data, "date": date.today().isoformat()})
    except (IndexError, ValueError, TypeError):
        return None


def thread_counts(cores: int) -> Sequence[int]:
    """1, 2, 4, … and all cores."""
    powers = [1 << k for k in range(cores.bit_length()) if 1 << k < cores]
    return [*powers, cores]
