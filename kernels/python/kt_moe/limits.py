"""What this machine can do at most, measured: the yardstick for the kernels."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from kt_moe._native import core

PeakKind = Literal["fma", "int8", "bf16", "amx-int8", "amx-bf16", "int4"]
KINDS: tuple[PeakKind, ...] = ("fma", "int8", "bf16", "amx-int8", "amx-bf16", "int4")


def bandwidth(threads: int, *, size: int = 1 << 30, seconds: float = 0.5) -> float:
    """Bytes per second that `threads` threads read together from `size` bytes of memory."""
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return float(core().bandwidth(threads, size, seconds))


def peak(kind: PeakKind, threads: int, *, seconds: float = 0.2) -> float:
    """Operations per second, a multiply-add being two; 0 where the variant has no such thing."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    return float(core().peak(KINDS.index(kind), threads, seconds))


BARRIER_PHASES, BARRIER_UNIT = 8, 5e-6


def barrier(*, seconds: float = 0.2) -> float:
    """Seconds that one phase of the pool's threads takes beyond its work, 5 µs for each thread."""
    whole, one = (core().job_time(n, BARRIER_UNIT, seconds / 2) for n in (BARRIER_PHASES, 1))
    return float((whole - one) / (BARRIER_PHASES - 1) - BARRIER_UNIT)


def set_tile_from(tokens: int) -> None:
    """Tokens per touched expert from which AMX tiles replace vectors, for all layers; 0 goes back
    to what `kt_moe.tuning` finds."""
    core().set_tile_from(tokens)


class Cut(NamedTuple):
    """How a tile product is cut: `depth` tiles of 64 bytes of k, `panels` of 16 rows of weights and
    `blocks` of 16 tokens at a time; `fetch` prefetches what the next step reads."""

    depth: int
    panels: int
    blocks: int
    fetch: bool = False


def pin_cut(cut: Cut | None) -> None:
    """Always cut like this; None finds the fastest cut of each kind of call by trying."""
    if cut is None:
        core().pin_cut(0, 0, 0, False)
        return
    if cut.depth < 2 or cut.depth % 2 or cut.panels < 4 or cut.panels % 4 or cut.blocks < 1:
        raise ValueError(f"depth must be even and panels a multiple of 4, not {cut}")
    core().pin_cut(cut.depth, cut.panels, cut.blocks, bool(cut.fetch))


def last_cut() -> Cut:
    """The cut of the last call that used tiles."""
    depth, panels, blocks, fetch = core().last_cut()
    return Cut(depth, panels, blocks, bool(fetch))


def phases(experts: Any, x: Any, ids: Any, weights: Any, out: Any) -> list[float]:
    """Seconds of each phase of one `forward`, by the calling thread's clock."""
    return list(experts._packed.phases(x, ids, weights, None, out))
