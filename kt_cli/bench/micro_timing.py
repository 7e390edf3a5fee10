"""What all measuring processes share; standard library only, as foreign Pythons load it too."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Item = dict[str, Any]


def serve(measure: Callable[[Request], Iterator[Item]]) -> None:
    """Reads a request from the first file in argv, writes one JSON line per item to the second."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Path(sys.argv[2]).open("w", encoding="utf-8") as lines:
        for item in measure(request):
            lines.write(json.dumps(item) + "\n")
            lines.flush()


def timed(call: Callable[[int], None], seconds: float, least: int = 5) -> dict[str, float]:
    """Median and best time of `call(i)` in ms, after two calls to warm up."""
    times: list[float] = []
    for i in range(2):
        call(i)
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call(len(times) + 2)
        times.append((time.perf_counter() - start) * 1e3)
    return {"ms": statistics.median(times), "best_ms": min(times), "repeats": len(times)}
