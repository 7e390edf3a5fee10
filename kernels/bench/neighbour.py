"""A busy process on one core, for timings beside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SPIN = "import os\nos.sched_setaffinity(0, {%d})\nprint(flush=True)\nwhile True: pass"


@contextmanager
def busy_neighbour(active: bool) -> Iterator[None]:
    """Spins on the last core this process may use."""
    if not active:
        yield
        return
    core = max(os.sched_getaffinity(0))
    process = subprocess.Popen([sys.executable, "-c", SPIN % core], stdout=subprocess.PIPE)
    try:
        if process.stdout is not None:
            process.stdout.readline()  # it spins from here on
        yield
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
