"""The header of a safetensors file: eight bytes of length, then JSON with every tensor's place.

Format: https://github.com/huggingface/safetensors#format. Bytes in, descriptions out; a header that
does not fit its file is refused by name.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from kt_cli.documents import Record, Source, open_regular, parse_json, shown
from kt_cli.errors import KtError, TransferError

MAX_HEADER = 100_000_000
"""The limit of the safetensors library itself."""
MAX_DIMS, MAX_SIDE, MAX_FILE = 16, 1 << 48, 1 << 56
"""More than any tensor has; so that no product of sizes is a computation of its own."""

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """`dtype` is the format's tag, such as BF16; `start` and `end` count from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * BITS[self.dtype] // 8


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors of one file on disk, none of them loaded."""
    source = _source(str(path))
    with open_regular(path, source) as file:
        size = os.fstat(file.fileno()).st_size
        length = header_length(file.read(8), size, str(path))
        return parse_header(file.read(length), size, str(path))


def header_length(first: bytes, size: int, where: str) -> int:
    """Length of the JSON from the file's first eight bytes; `size` is that of the whole file."""
    if len(first) < 8:
        raise damaged(where, f"it has {len(first)} bytes, less than the length of a header")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER:
        raise damaged(where, f"it claims a header of {length} bytes; {MAX_HEADER} is the limit")
    if 8 + length > size:
        raise damaged(where, f"its header of {length} bytes is larger than the file ({size})")
    return length


def parse_header(text: bytes, size: int, where: str) -> dict[str, TensorInfo]:
    """The tensors fill the file without gaps, as the safetensors library demands."""
    start = 8 + len(text)
    with _collector_paused():
        entries = parse_json(text, _source(where))
        names = (name for name in entries.values if name != "__metadata__")
        tensors = {name: _entry(name, entries, start, where) for name in names}
    at = start
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != at:
            raise damaged(where, f"tensor {shown(info.name)} begins at {info.start}, not at {at}")
        at = info.end
    if at > size:
        raise damaged(where, f"it has {size} bytes and its tensors need {at}: cut short")
    if at < size:
        raise damaged(where, f"it has {size} bytes and its tensors end at {at}")
    return tensors


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A third of the time: as objects by the hundred thousand are made, Python's garbage collector
    looks through all of them again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def damaged(where: str, why: str) -> TransferError:
    return TransferError(f"{where} is not a whole safetensors file", why, "download it again")


@dataclass(frozen=True, slots=True)
class _Source(Source):
    def wrong(self, why: str) -> KtError:
        return damaged(self.name, why)


def _source(where: str) -> Source:
    return _Source(where)


def _entry(name: str, entries: Record, start: int, where: str) -> TensorInfo:
    dtype, shape, first, last = _fields(name, entries, where)
    if dtype not in BITS:
        raise TransferError(
            f"cannot read {where}",
            f"tensor {shown(name)} has the unknown dtype {shown(dtype)}",
            "a newer `kt` may know it",
        )
    info = TensorInfo(name, dtype, shape, start + first, start + last)
    bits = prod(shape) * BITS[dtype]
    if 8 * (last - first) != bits:
        taken = f"tensor {shown(name)} has {last - first} bytes, its shape {bits // 8}"
        raise damaged(where, taken)
    return info


def _fields(name: str, entries: Record, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """Headers have hundreds of thousands of entries, so only a strange one is looked at closely."""
    values = entries.values[name]
    if type(values) is dict:
        dtype, shape = values.get("dtype"), values.get("shape")
        places = values.get("data_offsets")
        if (
            type(dtype) is str
            and _plain(shape, MAX_DIMS, MAX_SIDE)
            and _plain(places, 2, MAX_FILE)
            and len(places) == 2
            and places[0] <= places[1]
        ):
            return dtype, tuple(shape), places[0], places[1]
    entry = entries.part(name)
    entry.text("dtype")
    entry.integers("shape", high=MAX_SIDE)
    entry.integers("data_offsets", high=MAX_FILE)
    raise damaged(where, f"the entry of tensor {shown(name)} is malformed")


def _plain(numbers: Any, most: int, high: int) -> TypeGuard[list[int]]:
    if type(numbers) is not list or len(numbers) > most:
        return False
    return all(type(number) is int and 0 <= number <= high for number in numbers)
