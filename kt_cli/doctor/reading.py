"""How fast a disk delivers what is not in the page cache."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from pathlib import Path

SIZE = 64 << 20
BLOCK = 4 << 20
ROOM = 1 << 30
PASSES = 2


def speed(place: Path) -> float | None:
    """GB/s of a direct read of a file without a name; None where that cannot be tried."""
    try:
        free = os.statvfs(place)
        if free.f_bavail * free.f_frsize < ROOM:
            return None
        with tempfile.TemporaryFile(dir=place) as file:
            block = os.urandom(BLOCK)
            for _ in range(SIZE // BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return max(_read(f"/proc/self/fd/{file.fileno()}") for _ in range(PASSES))
    except OSError:
        return None


def _read(name: str) -> float:
    """OSError on file systems without direct reads, such as tmpfs."""
    handle = os.open(name, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, BLOCK) as aligned:
            started = time.perf_counter()
            total = 0
            while count := os.readv(handle, [aligned]):
                total += count
            return total / (time.perf_counter() - started) / 1e9
    finally:
        os.close(handle)
