"""From any format to packed experts: what a checkpoint holds → what the kernels compute with.

A format that the kernels pack themselves goes there without a detour; another one is repacked to
the nearest one of theirs, and the error that this adds is measured on the first expert.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias, TypeVar

import numpy as np

from kt_moe._native import core
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
T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 1 << 30
"""Bytes that matrices may take while they are decoded ahead."""
_DECODING = 12
"""Bytes for a weight meanwhile, about."""


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
    """`count` experts (gate, up, down), decoded by threads a few matrices ahead of packing, so
    `triples` should only map what it yields; `target` None: the nearest format.

    `shape` is the (intermediate, hidden) that gate must have; None takes the first one's.
    """
    coming = iter(triples)
    first = next(coming, None)
    if first is None:
        raise FormatError(f"0 experts came, not {count}")
    experts = _empty(first, shape or first[0].shape, count, top_k, act, target, group)
    wanted, seen = _wanted(experts, chain([first], coming)), 0
    with closing(_ahead(_packable, wanted, _threads(experts))) as ready:
        for seen, (gate, up, down) in enumerate(zip(ready, ready, ready, strict=True), 1):
            experts.set_expert(seen - 1, gate, up, down)
    if seen != count:
        raise FormatError(f"{seen} experts came, not {count}")
    return Loaded(experts, _error(experts, first))


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


def _wanted(experts: Experts, triples: Iterable[Triple]) -> Iterator[tuple[Matrix, Coding]]:
    """Gate, up and down of one expert after the other, and how the experts hold them."""
    both = Coding(experts.format, experts.group)
    down = Coding(experts.down_format, experts.down_group)
    for number, triple in enumerate(triples):
        _check(triple, experts, number)
        yield from zip(triple, (both, both, down), strict=True)


def _threads(experts: Experts) -> int:
    size = experts.hidden * experts.intermediate * _DECODING
    cores: int = core().threads()
    return max(1, min(cores, _AHEAD // size))


def _ahead(make: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R, None, None]:
    """`make` of every item, in order, made by threads before it is asked for."""
    with ThreadPoolExecutor(threads, "experts") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _packable(item: tuple[Matrix, Coding]) -> Array | Stored:
    """Codes where a matrix has the experts' format, its weights otherwise."""
    matrix, wanted = item
    return _fitting(matrix, wanted) or _floats(matrix)


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
