"""The few facts of this machine that `kt microbench` needs and records."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_cache(caches: Path = CACHES) -> int:
    """Bytes of the largest cache that the first CPU sees; 32 MiB where that is hidden."""
    sizes = [_size(f.read_text()) for f in caches.glob("index*/size")]
    return max(sizes, default=32 << 20)


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 4 << 30


def facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> Mapping[str, object]:
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.processor(),
        "kernel": platform.release(),
        "memory": available_memory(),
        "last_level_cache": last_level_cache(),
    }


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMG]?)\s*", text)
    return int(found.group(1)) * _UNITS[found.group(2)] if found else 0
