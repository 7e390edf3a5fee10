"""The header of a safetensors file: eight bytes of length, then JSON with every tensor's place.

Format: https://github.com/huggingface/safetensors#format. Bytes in, descriptions out; a header that
does not fit its file is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from kt_cli.errors import KtError, NotFoundError, TransferError

INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000
"""The limit of the safetensors library itself."""

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
    if not path.is_file():
        raise NotFoundError(f"no file {path}", "a safetensors file was expected there")
    size = path.stat().st_size
    with path.open("rb") as file:
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
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise damaged(where, f"its header is no JSON: {error}") from error
    if not isinstance(entries, dict):
        raise damaged(where, "its header is no JSON object")
    start = 8 + len(text)
    items = [(k, v) for k, v in entries.items() if k != "__metadata__"]
    tensors = {name: _entry(name, entry, start, where) for name, entry in items}
    end = max((t.end for t in tensors.values()), default=start)
    if end > size:
        raise damaged(where, f"it has {size} bytes and its tensors need {end}: cut short")
    return tensors


def damaged(where: str, why: str) -> TransferError:
    return TransferError(f"{where} is not a whole safetensors file", why, "download it again")


def _entry(name: str, entry: Any, start: int, where: str) -> TensorInfo:
    try:
        dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, f"the entry of tensor {name} is malformed") from error
    if dtype not in BITS:
        raise KtError(
            f"cannot read {where}",
            f"tensor {name} has the unknown dtype {dtype}",
            "a newer `kt` may know it",
        )
    info = TensorInfo(name, dtype, shape, start + first, start + last)
    if min(shape, default=0) < 0 or first < 0 or last - first != info.nbytes:
        raise damaged(where, f"tensor {name} has {last - first} bytes, its shape {info.nbytes}")
    return info
