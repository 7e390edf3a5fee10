"""GGUF files: metadata and tensor table read at once, tensor data memory-mapped and read on demand.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np

from kt_moe.files.errors import FileError, MissingTensor, NotWhole
from kt_moe.formats.floats import Bytes, Floats
from kt_moe.formats.gguf import BLOCKS, TYPE_NAMES, dequantize

MAGIC = b"GGUF"
MAX_DIMS = 4
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Codes of the value types, and how `struct` spells them."""
STRING, ARRAY = 8, 9
LENGTH_BYTES, PAIR_BYTES, TENSOR_BYTES = 8, 13, 32
"""The least that a text or list, a key with its value and a tensor's entry take."""
ALIGNMENT, MAX_ALIGNMENT = 32, 1 << 20
MAX_HEADER, MAX_TEXT, MAX_ITEMS, MAX_DEPTH = 1 << 29, 1 << 26, 8_000_000, 4
"""Vocabularies with their merges have some 500,000 items in 20 MB."""
SHOWN = 80
REMOVED = frozenset({4, 5, 31, 32, 33, 36, 37, 38})
IK_FIRST = 97
Row: TypeAlias = tuple[tuple[int, ...], int, int]
"""Shape, type and offset of a tensor."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is in C order (slowest axis first), the reverse of the order in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int

    @property
    def parameters(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Raises FileNotFoundError, NotWhole or, for what is not known, FileError."""
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise _damaged(path, f"it has {size} bytes, less than a header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return cls(path, *_parse(path, data))

    def raw(self, name: str) -> Bytes:
        """The tensor's blocks as they stand in the file, memory-mapped and read-only."""
        tensor = self.tensor(name)
        return np.memmap(
            self.path, dtype=np.uint8, mode="r", offset=tensor.offset, shape=(tensor.nbytes,)
        )

    def get(self, name: str) -> Floats:
        """The tensor as float32; raises UnsupportedFormat for a type that cannot be decoded."""
        tensor = self.tensor(name)
        return dequantize(self.raw(name), tensor.type).reshape(tensor.shape)

    def tensor(self, name: str) -> GgufTensor:
        if name not in self.tensors:
            raise MissingTensor(f"{self.path} has no tensor {name}")
        return self.tensors[name]


def _parse(path: Path, data: mmap.mmap) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    cursor = Cursor(path, data)
    if data[:4] != MAGIC:
        raise cursor.damaged("it does not start with the GGUF magic bytes")
    cursor.at = 4
    version, tensors, keys = cursor.take("IQQ")
    if version not in (2, 3):
        raise FileError(f"cannot read {path}", f"its GGUF version is {version}, not 2 or 3")
    metadata = cursor.unique("key", keys, PAIR_BYTES, cursor.pair)
    table = cursor.unique("tensor", tensors, TENSOR_BYTES, cursor.tensor)
    alignment = _alignment(cursor, metadata)
    start = -(-cursor.at // alignment) * alignment
    placed = {name: _placed(cursor, name, row, start) for name, row in table.items()}
    _require_apart(cursor, list(placed.values()), start)
    return metadata, placed


def _alignment(cursor: Cursor, metadata: Mapping[str, Any]) -> int:
    found = metadata.get("general.alignment", ALIGNMENT)
    if type(found) is not int or not 0 < found <= MAX_ALIGNMENT or found & (found - 1):
        raise cursor.damaged(f"`general.alignment` is {cut(str(found))}, no power of two")
    return found


def _placed(cursor: Cursor, name: str, row: Row, start: int) -> GgufTensor:
    shape, code, offset = row
    kind = TYPE_NAMES.get(code)
    if kind is None:
        why = f"tensor {cut(name)} has the GGUF type {code}, {_unknown(code)}"
        raise FileError(f"cannot read {cursor.path}", why)
    block, width = BLOCKS[kind]
    if shape[-1] % block:
        raise cursor.damaged(f"rows of {cut(name)} are no multiple of {block}, the block of {kind}")
    return GgufTensor(name, shape, kind, start + offset, prod(shape) // block * width)


def _unknown(code: int) -> str:
    """https://github.com/ggml-org/ggml/blob/master/include/ggml.h and ik_llama.cpp's own."""
    if code in REMOVED:
        return "which llama.cpp has removed"
    return "which only ik_llama.cpp knows" if code >= IK_FIRST else "which is not known"


def _require_apart(cursor: Cursor, tensors: list[GgufTensor], start: int) -> None:
    end, before = start, "the header"
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset < end:
            raise cursor.damaged(f"tensor {cut(tensor.name)} begins within {before}")
        end, before = tensor.offset + tensor.nbytes, f"tensor {cut(tensor.name)}"
    if end > cursor.file_bytes:
        raise cursor.damaged(f"it ends at byte {cursor.file_bytes}, inside {before}")


def _damaged(path: Path, why: str) -> NotWhole:
    return NotWhole(f"{path} is not a whole GGUF file", why)


def cut(name: str) -> str:
    """A name of the file in a message."""
    return name if len(name) <= SHOWN and name.isprintable() else repr(name[:SHOWN])


class Cursor:
    """Reads a header; nothing is made of a number before there is room for it in the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0
        self.file_bytes = len(data)
        self.end = min(len(data), MAX_HEADER)
        self.items = 0

    def damaged(self, why: str) -> NotWhole:
        return _damaged(self.path, why)

    def room(self, count: int, width: int, what: str) -> None:
        """Raises NotWhole unless `count` times `width` bytes can follow."""
        if count * width > self.end - self.at:
            raise self.damaged(f"its header breaks off: {count} {what} do not fit after {self.at}")

    def take(self, layout: str) -> tuple[Any, ...]:
        size = struct.calcsize("<" + layout)
        self.room(1, size, "numbers")
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += size
        return values

    def text(self) -> str:
        """Bytes that are not UTF-8, as in tokens that hold a part of a character, are replaced."""
        (length,) = self.take("Q")
        self.room(length, 1, "bytes of text")
        if length > MAX_TEXT:
            raise self.damaged(f"a text of {length} bytes stands at {self.at}")
        value = self.data[self.at : self.at + length].decode("utf-8", errors="replace")
        self.at += length
        return value

    def unique(
        self, what: str, count: int, width: int, read: Callable[[], tuple[str, T]]
    ) -> dict[str, T]:
        """So many of what `read` gives, each with a name of its own."""
        self._expect(count, width, f"{what}s")
        found: dict[str, T] = {}
        for _ in range(count):
            name, value = read()
            if name in found:
                raise self.damaged(f"the {what} {cut(name)} stands there twice")
            found[name] = value
        return found

    def pair(self) -> tuple[str, Any]:
        key = self.text()
        (kind,) = self.take("I")
        return key, self.value(kind, 0)

    def value(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY and depth < MAX_DEPTH:
            kind, count = self.take("IQ")
            return self.array(kind, count, depth)
        if kind not in SCALARS:
            raise self.damaged(f"a value of the type {kind} stands at {self.at}")
        return self.take(SCALARS[kind])[0]

    def array(self, kind: int, count: int, depth: int) -> list[Any]:
        if kind in SCALARS:
            self._expect(count, struct.calcsize("<" + SCALARS[kind]), "numbers")
            return list(self.take(f"{count}{SCALARS[kind]}"))
        self._expect(count, LENGTH_BYTES, "values")
        return [self.value(kind, depth + 1) for _ in range(count)]

    def tensor(self) -> tuple[str, Row]:
        name = self.text()
        (dims,) = self.take("I")
        if not 0 < dims <= MAX_DIMS:
            raise self.damaged(f"tensor {cut(name)} has {dims} dimensions")
        shape = self.take(f"{dims}Q")[::-1]
        code, offset = self.take("IQ")
        return name, (shape, code, offset)

    def _expect(self, count: int, width: int, what: str) -> None:
        self.room(count, width, what)
        self.items += count
        if self.items > MAX_ITEMS:
            raise self.damaged(f"it has more than {MAX_ITEMS} keys, values and tensors")
