"""What this machine can do at most, measured: the yardstick for the kernels."""

from __future__ import annotations

from typing import Any, Literal

from kt_moe._native import core

PeakKind = Literal["fma", "int8", "bf16", "amx-int8", "amx-bf16"]
KINDS: tuple[PeakKind, ...] = ("fma", "int8", "bf16", "amx-int8", "amx-bf16")


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


def set_tile_from(tokens: int) -> None:
    """Tokens per touched expert from which AMX tiles replace vectors; 0 restores the default."""
    core().set_tile_from(tokens)


def set_cut(depth: int, panels: int, blocks: int) -> None:
    """How tile products are cut: depth in tiles of 64 bytes of k, panels of 16 rows of weights,
    blocks of 16 tokens, each at a time."""
    if depth < 2 or depth % 2 or panels < 4 or panels % 4 or blocks < 1:
        given = f"{depth}, {panels}, {blocks}"
        raise ValueError(f"depth must be even, panels a multiple of 4, not {given}")
    core().set_cut(depth, panels, blocks)


def phases(experts: Any, x: Any, ids: Any, weights: Any, out: Any) -> list[float]:
    """Seconds of each phase of one `forward`, by the calling thread's clock."""
    return list(experts._packed.phases(x, ids, weights, None, out))
