"""Stores the tuning results of this CPU, so that later processes need not tune again.

The first calls of a kind (format, sizes, threads, tokens per expert) that use tiles each try
another blocking of the product. Before the first call of a kind of layer (format, sizes, threads),
`calibrate` finds the number of tokens from which tiles are used.

Results are written to `KT_MOE_CACHE`, or else to `~/.cache/kt_moe` (XDG_CACHE_HOME), as soon as a
kind is decided, and read when the first experts are made. They are valid for one CPU model and one
build of the kernels. A file that cannot be read or written is ignored, because tuning again costs
only some fifteen calls. `KT_MOE_CACHE=off` stores nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kt_moe import switch
from kt_moe._native import core

if TYPE_CHECKING:
    from kt_moe.experts import Experts

Row: TypeAlias = tuple[int, ...]
Times: TypeAlias = "Callable[[Experts, int], list[switch.Timed]]"

_CUT, _KIND = 9, 7
_LARGEST = 1 << 30
_MAX_FILE = 1 << 24
_ENOUGH = 64


class Found(NamedTuple):
    cuts: dict[Row, float]
    """product, hidden, intermediate, threads, crowding, and a cut; seconds for a block of rows."""
    switches: dict[Row, int]
    """products and groups, hidden, intermediate, threads; tokens from which tiles are used."""


def file() -> Path | None:
    """Where results of this CPU and this build of the kernels are kept; None keeps nothing."""
    folder = os.environ.get("KT_MOE_CACHE", "")
    if folder == "off":
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = Path(folder).expanduser() if folder else caches / "kt_moe"
    return place / f"tuned-{_key()}.json"


def load() -> int:
    """Takes over what earlier processes have found; how many rows there were."""
    path = file()
    found = _read(path) if path is not None else Found({}, {})
    core().adopt_cuts(list(found.cuts.items()))
    for kind, tokens in found.switches.items():
        core().keep_switch(kind, tokens)
    return len(found.cuts) + len(found.switches)


def save() -> bool:
    """Writes what this process and earlier ones have found; False where that is not possible."""
    path = file()
    if path is None:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            _replace(path, _text(_read(path)))
    except OSError:  # a read-only home is no fault of the computation
        return False
    return True


def calibrate(experts: Experts, times: Times = switch.times) -> None:
    """Times vectors and tiles on these experts if it is not known from how many tokens for each
    touched expert tiles are faster for layers like this one: up to about a second.

    Both give slightly different numbers, so the answer stays for the life of the process. `Experts`
    does this in the caller's thread before its first call; threads in the background only compute.
    """
    packed = experts._packed
    if not packed.wants_switch():
        return
    load()  # another process may have been first
    if not packed.wants_switch():
        return
    kind = packed.kind()
    tokens = switch.crossover(times(experts, kind[-1]))
    core().keep_switch(kind, tokens or 0)
    if tokens:
        save()


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


def _text(known: Found) -> str:
    """A kind of layer keeps its first switch, so that later processes compute the same."""
    cuts = known.cuts | {tuple(numbers): seconds for numbers, seconds in core().cut_records()}
    switches = {tuple(kind): tokens for kind, tokens in core().switches()} | known.switches
    rows = {
        name: [[list(numbers), value] for numbers, value in part.items()]
        for name, part in (("cuts", cuts), ("switches", switches))
    }
    return json.dumps({"cpu": _cpu(), **rows})


def _read(path: Path) -> Found:
    """Those rows of a file that make sense; a file may hold anything."""
    found = Found({}, {})
    try:
        if path.stat().st_size > _MAX_FILE:
            return found
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return found
    if not isinstance(read, dict) or read.get("cpu") != _cpu():
        return found
    for numbers, seconds in _rows(read.get("cuts"), _CUT):
        if type(seconds) is float and 0 < seconds < math.inf:
            found.cuts[numbers] = seconds
    for numbers, tokens in _rows(read.get("switches"), _KIND):
        if type(tokens) is int and 1 <= tokens <= switch.NEVER:
            found.switches[numbers] = tokens
    return found


def _rows(rows: Any, columns: int) -> Iterator[tuple[Row, Any]]:
    """Pairs of so many sound numbers and anything."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 2 and _sound(row[0], columns):
            yield tuple(row[0]), row[1]


def _sound(numbers: Any, columns: int) -> bool:
    if not isinstance(numbers, list) or len(numbers) != columns:
        return False
    return all(type(n) is int and 0 <= n <= _LARGEST for n in numbers)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is inside meanwhile, where the file system has locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # closing would leave it to a child forked meanwhile
        os.close(handle)


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
