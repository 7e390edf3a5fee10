"""How a matrix is packed: a format of the kernels and the k of a group."""

from __future__ import annotations

from typing import NamedTuple

from kt_moe._native import core

_USUAL = 32


class Coding(NamedTuple):
    format: str
    group: int

    def __str__(self) -> str:
        return f"{self.format} in groups of {self.group}"


def coding(format: str, group: int | None = None) -> Coding:
    """`group` None: 32, or the least that the format has. ValueError for what no kernel has."""
    known = core().formats()
    if format not in known:
        raise ValueError(f"format must be one of {', '.join(known)}, not {format}")
    groups = core().groups(format)
    group = group or (_USUAL if _USUAL in groups else groups[0])
    if group not in groups:
        allowed = " or ".join(str(g) for g in groups)
        raise ValueError(f"group must be {allowed} for {format}, not {group}")
    return Coding(format, group)
