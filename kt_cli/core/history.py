"""Predicted against measured: what a load really took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kt_cli.core.engine_report import EngineReport
from kt_cli.core.plan import Item, Kind, Plan, Range
from kt_cli.core.units import MIB, round_up

PASSING = (Kind.LOADING, Kind.LIBRARIES, Kind.WORKSPACE)
"""Lines of the host's ledger that are no memory of a server at rest: gone once it is loaded, files
that the kernel may drop, buffers that are given back."""
LATE = (Kind.SCRATCH, Kind.PINNED, Kind.WORKSPACE, Kind.SLOT)
"""Lines of SGLang's ledger that long prompts fill, and that stay."""
FIRST = (Kind.HOST_CUDA, Kind.BUFFERS, Kind.WORKSPACE)
"""Lines of the embedded engine's ledger beside a GPU that the first request fills."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One load of a model as it was. Sizes in bytes, None for what was not measured."""

    model: str
    engine: str
    date: str
    expected: int
    """Host memory the ledger foretold for this moment."""
    resident: int
    """What the engine's processes hold: anonymous memory and mapped weights."""
    kv_used: int | None = None
    vram: int | None = None
    expected_vram: int | None = None
    ready_s: float | None = None
    decode: float | None = None
    """Tokens/s of one request."""
    decode_limit: float | None = None
    """Tokens/s that share is measured against: where the memory bandwidth would be used up, with
    SGLang the middle of what an unmeasured machine is told."""
    idle: int | None = None
    """As `expected`, before the first long prompt; None where that makes no difference."""
    idle_vram: int | None = None
    base: int | None = None
    """Part of `expected` that calibration may have moved: the engine's base, and with the embedded
    engine beside a GPU what CUDA takes on the host."""
    context: int | None = None
    """The same of `expected_vram`, of each GPU: the CUDA context."""
    gpus: int = 1
    report: EngineReport = field(default_factory=EngineReport)

    def off(self, base: int) -> int:
        """Bytes that were missing in what a base of that size would have foretold."""
        moved = base - (base if self.base is None else self.base)
        return _outside(self.idle, self.expected, self.resident - moved)

    def off_vram(self, context: int) -> int | None:
        """The same on each GPU for a CUDA context of that size."""
        if self.vram is None or self.expected_vram is None:
            return None
        moved = self.gpus * (context - (context if self.context is None else self.context))
        return _outside(self.idle_vram, self.expected_vram, self.vram - moved) // self.gpus


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity of the comparison; `off` is the error relative to what was measured."""

    name: str
    predicted: str
    actual: str
    off: float | None
    inside: bool


@dataclass(frozen=True, slots=True)
class Cache:
    """How much of the KV cache was ever touched."""

    used: int
    """Tokens."""
    segments: int = 1
    """Runs of memory it is cut into: one a layer, head, and keys or values."""
    huge: bool = False
    """Memory comes in huge pages of 2 MiB."""
    pooled: bool = True
    """Set aside as a whole at the start, not growing with each request."""

    def touched(self, size: int, tokens: int) -> int:
        """Resident bytes of a cache of `size` bytes for `tokens`."""
        part = size * min(1.0, self.used / tokens) / self.segments
        page = 2 * MIB if self.huge else 4096
        return min(size, self.segments * round_up(int(part), page))


def expected_now(plan: Plan, cache: Cache | None = None, without: Sequence[Kind] = ()) -> int:
    """Host memory of a loaded model: cache pages count once they are touched."""
    pools = [p for p in plan.pools if p.name == "RAM" or p.name.startswith("node")]
    left_out = (*PASSING, *without)
    items = (item for pool in pools for item in pool.items if item.kind not in left_out)
    return sum(_now(item, plan, cache) for item in items)


def expected_vram(
    plan: Plan, cache: Cache | None = None, without: Sequence[Kind] = ()
) -> int | None:
    """GPU memory of a loaded model, where a cache of one piece is taken whole; None without GPU."""
    pools = [p for p in plan.pools if p.name.startswith("GPU")]
    grown = None if cache is None or cache.pooled else cache
    items = (item for pool in pools for item in pool.items if item.kind not in without)
    total = sum(_now(item, plan, grown) for item in items)
    return total if pools else None


def _now(item: Item, plan: Plan, cache: Cache | None) -> int:
    tokens = plan.value("kv_tokens") or 0
    if item.kind is Kind.CACHE and cache and tokens:
        return cache.touched(item.bytes, tokens)
    return item.bytes


HOST_LEAST, GPU_LEAST = 150 * 10**6, 256 * MIB


def tolerance(size: int, least: int = HOST_LEAST) -> int:
    """Memory should be foretold within this many bytes."""
    return max(least, int(size * 0.03))


def compare(plan: Plan, outcome: Outcome) -> tuple[Line, ...]:
    low, high = outcome.idle, outcome.expected
    lines = [_memory("RAM", low, high, outcome.resident, HOST_LEAST)]
    if outcome.vram is not None and outcome.expected_vram is not None:
        low, high = outcome.idle_vram, outcome.expected_vram
        lines.append(_memory("GPU memory", low, high, outcome.vram, GPU_LEAST))
    speeds = (
        ("decode tok/s", plan.speed.decode, outcome.decode),
        ("load s", plan.speed.load_s, outcome.ready_s),
    )
    lines += [_range(name, range_, value) for name, range_, value in speeds if range_ and value]
    return tuple(lines)


def _outside(low: int | None, high: int, actual: int) -> int:
    """How far `actual` lies above or, negative, below what was foretold: `low` to `high`."""
    return actual - (high if low is None else min(max(actual, low), high))


def _memory(name: str, low: int | None, high: int, actual: int, least: int) -> Line:
    """Between `low`, where there is one, and `high`; the error is that of the nearer end."""
    missing = _outside(low, high, actual)
    off = -missing / actual if actual else None
    inside = abs(missing) <= tolerance(actual, least)
    span = "" if low is None or low == high else f"{low / 1e6:.0f}–"
    return Line(name, f"{span}{high / 1e6:.0f} MB", f"{actual / 1e6:.0f} MB", off, inside)


def _range(name: str, range_: Range, actual: float) -> Line:
    middle = (range_.low + range_.high) / 2
    inside = range_.low <= actual <= range_.high
    predicted = f"{range_.low:.1f}–{range_.high:.1f}"
    return Line(name, predicted, f"{actual:.1f}", (middle - actual) / actual, inside)
