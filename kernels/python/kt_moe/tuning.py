"""What trying has found on this CPU, kept from process to process.

The first calls of a kind (format, sizes, threads, tokens per expert) that use tiles each try
another way of cutting the product for the caches. What was found is written to `KT_MOE_CACHE`, or
else to `~/.cache/kt_moe` (XDG_CACHE_HOME), as soon as a kind is settled, and read when the first
experts are made. It holds for one model of CPU and one build of the kernels; what cannot be read or
written is left alone, as trying again costs some fifteen calls. `KT_MOE_CACHE=off` keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from kt_moe._native import core

Row: TypeAlias = tuple[tuple[int, ...], float]
"""product, hidden, intermediate, threads, crowding, and a cut; seconds for a block of rows."""

_COLUMNS = 9
_LARGEST = 1 << 30
_MAX_FILE = 1 << 24
_ENOUGH = 64


def file() -> Path | None:
    """Where results of this CPU and this build of the kernels are kept; None keeps nothing."""
    folder = os.environ.get("KT_MOE_CACHE", "")
    if folder == "off":
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = Path(folder).expanduser() if folder else caches / "kt_moe"
    return place / f"cuts-{_key()}.json"


def load() -> int:
    """Takes over what earlier processes have found; how many rows there were."""
    path = file()
    rows = list(_rows(path)) if path is not None else []
    core().adopt_cuts(rows)
    return len(rows)


def save() -> bool:
    """Writes what this process and earlier ones have found; False where that is not possible."""
    path = file()
    if path is None:
        return False
    known = dict(_rows(path)) | dict(_found())
    text = json.dumps({"cpu": _cpu(), "cuts": [[list(k), v] for k, v in known.items()]})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
    except OSError:  # a read-only home is no fault of the computation
        return False
    return True


def keep() -> None:
    """Saves when there is something new; quick when there is not."""
    if core().newly_settled_cuts():
        save()


@cache
def load_once() -> None:
    load()


def settle(call: Callable[[int], object]) -> int:
    """Repeats `call(0)`, `call(1)`, … until one tries no other cut; how many there were."""
    core().tried_a_cut()
    for n in range(_ENOUGH):
        call(n)
        if not core().tried_a_cut():
            return n + 1
    return _ENOUGH


def _found() -> Iterator[Row]:
    return ((tuple(numbers), seconds) for numbers, seconds in core().cut_records())


def _rows(path: Path) -> Iterator[Row]:
    """Those rows of a file that make sense; a file may hold anything."""
    try:
        if path.stat().st_size > _MAX_FILE:
            return
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    rows = read.get("cuts") if isinstance(read, dict) and read.get("cpu") == _cpu() else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 2 and _sound(row[0], row[1]):
            yield tuple(row[0]), float(row[1])


def _sound(numbers: Any, seconds: Any) -> bool:
    if not isinstance(numbers, list) or len(numbers) != _COLUMNS:
        return False
    whole = all(type(n) is int and 0 <= n <= _LARGEST for n in numbers)
    return whole and type(seconds) is float and 0 < seconds < math.inf


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as fresh:
            fresh.write(text)
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


@cache
def _key() -> str:
    """Of the CPU and of the compiled module, which a new version replaces."""
    module = Path(str(core().__file__)).stat()
    text = f"{_cpu()} {module.st_size} {module.st_mtime_ns}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    fields = (line.partition(":") for line in lines)
    names = ("model name", "cpu family", "model", "stepping")
    found = {key.strip(): value.strip() for key, _, value in reversed(list(fields))}
    return " ".join(found.get(name, "") for name in names)
