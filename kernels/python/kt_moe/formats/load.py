"""From any format to packed experts: what a checkpoint holds → what the kernels compute with.

A format that the kernels pack themselves goes there without a detour; another one is repacked to
the nearest one of theirs, and the error that this adds is measured on the first expert.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from kt_moe.coding import Coding, coding
from kt_moe.experts import ActName, Experts
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import Array
from kt_moe.formats.matrix import Matrix, Plain, relative_error
from kt_moe.formats.natively import stored
from kt_moe.stored import WITH_MINIMUM, Stored

Target: TypeAlias = str
"""A format's name, one of `kt_moe._core.formats()`."""
Triple: TypeAlias = tuple[Matrix, Matrix, Matrix]


@dataclass(frozen=True, slots=True)
class Loaded:
    """`error` is ‖packed − source‖ / ‖source‖, the largest of the first expert's matrices."""

    experts: Experts
    error: float


def to_experts(
    triples: Iterable[Triple],
    count: int,
    *,
    top_k: int,
    act: ActName = "silu",
    target: Target | None = None,
    group: int | None = None,
    shape: tuple[int, int] | None = None,
) -> Loaded:
    """`count` experts (gate, up, down), taken one at a time; `target` None: the nearest format.

    `shape` is the (intermediate, hidden) that gate must have; None takes the first one's.
    """
    experts: Experts | None = None
    error, seen = 0.0, 0
    for seen, triple in enumerate(triples, 1):
        if experts is None:
            shape = shape or triple[0].shape
            experts = _empty(triple, shape, count, top_k, act, target, group)
        _check(triple, experts, seen - 1)
        _pack(experts, seen - 1, triple)
        if seen == 1:
            error = _error(experts, triple)
    if experts is None or seen != count:
        raise FormatError(f"{seen} experts came, not {count}")
    return Loaded(experts, error)


def nearest(matrix: Matrix) -> Coding:
    """Format and group of the kernels for a matrix in any format.

    Codes that a format of the kernels can hold stay as they are. Other quantised weights take
    8 bits, and unquantised ones bf16.
    """
    native = stored(matrix)
    if native is not None:
        return native.coding
    return coding("bf16" if isinstance(matrix, Plain) else "int8")


def _empty(
    triple: Triple,
    shape: tuple[int, int],
    count: int,
    top_k: int,
    act: ActName,
    target: Target | None,
    group: int | None,
) -> Experts:
    gate, up, down = (nearest(m) for m in triple)
    both, own = _shared([gate, up], target, group), _shared([down], target, group)
    intermediate, hidden = shape
    return Experts(
        count,
        hidden,
        intermediate,
        format=both.format,
        group=both.group,
        down_format=own.format,
        down_group=own.group,
        top_k=top_k,
        act=act,
    )


def _shared(near: list[Coding], target: Target | None, group: int | None) -> Coding:
    """One coding for matrices whose nearest ones are known."""
    kinds = {c.format for c in near}
    format_: Target = target or _meeting(kinds)
    shared = min(c.group for c in near) if format_ in kinds else None
    return coding(format_, group or shared)


def _meeting(kinds: set[Target]) -> Target:
    if len(kinds) == 1:
        return next(iter(kinds))
    pairs = ({plain, wide} for plain, (wide, _) in WITH_MINIMUM.items())
    return max(kinds) if kinds in pairs else "int8"


def _pack(experts: Experts, expert: int, triple: Triple) -> None:
    """Code by code where a matrix has the experts' format, from its weights otherwise."""
    both = Coding(experts.format, experts.group)
    wanted = both, both, Coding(experts.down_format, experts.down_group)
    gate, up, down = (_fitting(m, c) or _floats(m) for m, c in zip(triple, wanted, strict=True))
    experts.set_expert(expert, gate, up, down)


def _fitting(matrix: Matrix, wanted: Coding) -> Stored | None:
    native = stored(matrix)
    if native is not None and WITH_MINIMUM.get(native.format, ("",))[0] == wanted.format:
        native = native.with_minimum()
    if native is None or native.format != wanted.format:
        return None
    return native.with_group(wanted.group)


def _check(triple: Triple, experts: Experts, expert: int) -> None:
    up, down = (experts.intermediate, experts.hidden), (experts.hidden, experts.intermediate)
    for name, matrix, wanted in zip(("gate", "up", "down"), triple, (up, up, down), strict=True):
        if matrix.shape != wanted:
            raise FormatError(f"{name} of expert {expert} is {matrix.shape}, not {wanted}")


def _floats(matrix: Matrix) -> Array:
    """Plain floats as they are (packing checks them for NaN), others decoded."""
    if isinstance(matrix, Plain) and matrix.weight.dtype != np.float64:
        plain: Array = np.ascontiguousarray(matrix.weight)
        return plain
    return matrix.decode()


def _error(experts: Experts, triple: Triple) -> float:
    packed = experts.dequantised(0)
    return max(relative_error(m.decode(), p) for m, p in zip(triple, packed, strict=True))
