"""Safetensors files of one checkpoint as numpy arrays on mapped memory.

Format: https://github.com/huggingface/safetensors#format. Numpy has no bf16 or fp8: such tensors
come as uint16 and uint8 with their bits, and `dtype(name)` tells the format's tag.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from kt_moe.files.errors import FileError, MissingTensor, NotWhole
from kt_moe.files.text import MAX_BYTES, json_object

NUMPY = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2",
    "I8": "i1", "U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1",
}  # fmt: skip
MAX_DIMS = 16


@dataclass(frozen=True, slots=True)
class Entry:
    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Tensors(Mapping[str, npt.NDArray[Any]]):
    """The tensors of every safetensors file of a folder, or of one file."""

    where: Path
    entries: Mapping[str, Entry]

    @classmethod
    def open(cls, path: str | Path) -> Tensors:
        """Reads headers only; raises FileError or NotWhole, FileNotFoundError for no file."""
        path = Path(path)
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"no safetensors file in {path}")
        entries: dict[str, Entry] = {}
        for file in files:
            entries.update(_read_header(file))
        return cls(path, entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        entry = self._entry(name)
        dtype = np.dtype(NUMPY[entry.dtype])
        if not prod(entry.shape):
            return np.empty(entry.shape, dtype)
        if not entry.shape:
            return np.fromfile(entry.file, dtype, 1, offset=entry.start).reshape(())
        return np.memmap(entry.file, dtype, "r", entry.start, entry.shape)

    def dtype(self, name: str) -> str:
        """The format's tag, such as BF16."""
        return self._entry(name).dtype

    def _entry(self, name: str) -> Entry:
        if name not in self.entries:
            raise MissingTensor(f"{self.where} has no tensor {name}")
        return self.entries[name]


def _read_header(file: Path) -> dict[str, Entry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or not 0 < length <= min(MAX_BYTES, size - 8):
            raise _damaged(file, f"its header does not fit its {size} bytes")
        text = stream.read(length)
    try:
        header = json_object(text)
    except ValueError as error:
        raise _damaged(file, f"its header is no table of tensors: {error}") from error
    return {
        name: _entry(file, name, item, 8 + length, size)
        for name, item in header.items()
        if name != "__metadata__"
    }


def _entry(file: Path, name: str, item: Any, data: int, size: int) -> Entry:
    fields = item if isinstance(item, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    places = fields.get("data_offsets")
    if not isinstance(dtype, str) or not _sizes(shape, MAX_DIMS) or not _sizes(places, 2):
        raise _damaged(file, f"the entry of tensor {name[:80]!r} makes no sense")
    if dtype not in NUMPY:
        why = f"tensor {name[:80]!r} has the unknown dtype {dtype[:20]!r}"
        raise FileError(f"cannot read {file}", why)
    first, last = (*places, 0, 0)[:2]
    if len(places) != 2 or last - first != prod(shape) * np.dtype(NUMPY[dtype]).itemsize:
        raise _damaged(file, f"tensor {name[:80]!r} does not fill its shape")
    if data + last > size:
        raise _damaged(file, f"it has {size} bytes and tensor {name[:80]!r} ends at {data + last}")
    return Entry(file, dtype, tuple(shape), data + first)


def _sizes(found: Any, most: int) -> TypeGuard[list[int]]:
    """A short list of whole numbers from 0 on."""
    if not isinstance(found, list) or len(found) > most:
        return False
    return all(type(n) is int and 0 <= n < 1 << 56 for n in found)


def _damaged(file: Path, why: str) -> NotWhole:
    return NotWhole(f"{file} is not a whole safetensors file", why)
