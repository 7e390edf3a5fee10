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
from typing import Any

import numpy as np

from kt_moe.files.errors import FileError, MissingTensor, NotWhole
from kt_moe.formats.floats import Bytes, Floats
from kt_moe.formats.gguf import BLOCKS, TYPE_NAMES, dequantize

MAGIC = b"GGUF"
MAX_DIMS = 4
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Codes of the value types, and how `struct` spells them."""
STRING, ARRAY = 8, 9


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
    cursor = _Cursor(data)
    try:
        if data[:4] != MAGIC:
            raise _damaged(path, "it does not start with the GGUF magic bytes")
        cursor.at = 4
        version, tensor_count, key_count = cursor.take("IQQ")
        if version not in (2, 3):
            raise FileError(f"cannot read {path}", f"its GGUF version is {version}, not 2 or 3")
        metadata = dict(cursor.pair() for _ in range(key_count))
        table = [cursor.tensor() for _ in range(tensor_count)]
    except FileError:
        raise
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, MemoryError) as error:
        raise _damaged(path, f"its header breaks off or makes no sense: {error}") from error
    alignment = int(metadata.get("general.alignment", 32))
    start = -(-cursor.at // alignment) * alignment
    return metadata, {t[0]: _tensor(path, t, start, len(data)) for t in table}


def _tensor(
    path: Path, row: tuple[str, tuple[int, ...], int, int], start: int, size: int
) -> GgufTensor:
    name, shape, code, offset = row
    kind = TYPE_NAMES.get(code)
    if kind is None:
        raise FileError(f"cannot read {path}", f"tensor {name} has the unknown GGUF type {code}")
    block, width = BLOCKS[kind]
    count = prod(shape)
    if shape[-1] % block:
        raise _damaged(path, f"rows of {name} are no multiple of {block}, the block of {kind}")
    nbytes = count // block * width
    if start + offset + nbytes > size:
        raise _damaged(path, f"it ends at byte {size}, inside tensor {name}")
    return GgufTensor(name, shape, kind, start + offset, nbytes)


def _damaged(path: Path, why: str) -> NotWhole:
    return NotWhole(f"{path} is not a whole GGUF file", why)


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        end = self.at + length
        if end > len(self.data):
            raise ValueError(f"a text of {length} bytes does not fit the file")
        value = self.data[self.at : end].decode("utf-8")
        self.at = end
        return value

    def pair(self) -> tuple[str, Any]:
        key = self.text()
        (kind,) = self.take("I")
        return key, self.value(kind)

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("IQ")
            return self.array(inner, count)
        return self.take(SCALARS[kind])[0]

    def array(self, kind: int, count: int) -> list[Any]:
        if kind in SCALARS:
            return list(self.take(f"{count}{SCALARS[kind]}"))
        read: Callable[[], Any] = self.text if kind == STRING else lambda: self.value(kind)
        return [read() for _ in range(count)]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (dims,) = self.take("I")
        if not 0 < dims <= MAX_DIMS:
            raise ValueError(f"tensor {name} has {dims} dimensions")
        shape = self.take(f"{dims}Q")[::-1]
        return (name, shape, *self.take("IQ"))
