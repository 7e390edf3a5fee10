"""What this machine can do at most, measured: the yardstick for the kernels."""

from __future__ import annotations

from typing import Literal

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
