"""The file of packed weights, `kt-moe-pack` version 1.

    0    16  magic, zero padded
    16   4   major version, little endian
    20   4   header length n, little endian
    24   n   header: JSON, keys as written below
    data_at  the panels and scales as they stand in memory, to the end of the file

`format` and `group` are those of gate and up. Where down has its own, `down_format` and
`down_group` say so and `layout` is n16-tile-major-v2, which readers of before refuse.

`digest` is `crc32c-blake2b:` and BLAKE2b over the header with an empty digest, then the CRC-32C of
every 64 KiB of the data, little endian; in older files BLAKE2b over header and data. What lies
between the header and `data_at` is zero. Older files have a `sample` too, which nothing needs.

Everything in a file is checked before any of it is used: header, padding and size by `read`, the
data by a `Seal` before its first use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from kt_moe._native import core
from kt_moe.coding import Coding

Bytes: TypeAlias = npt.NDArray[np.uint8]

MAGIC = b"kt-moe-pack\0\0\0\0\0"
VERSION = 1
_PREFIX = struct.Struct("<16sII")
_ALIGN = 4096
_MAX_HEADER = 1 << 20
_STEP = 1 << 22  # small enough to be in the cache still when it is written
_SUMS = "crc32c-blake2b:"
_SIZES = ("num_experts", "hidden", "intermediate")
PART = ".part"
"""Ending of a file that is being written."""


class PackFileError(ValueError):
    """A file of packed weights that cannot be used."""


@dataclass(frozen=True, slots=True)
class Meta:
    """`up`: how gate and up are packed."""

    num_experts: int
    hidden: int
    intermediate: int
    up: Coding
    down: Coding
    top_k: int
    act: str

    @property
    def layout(self) -> str:
        return "n16-tile-major-v1" if self.down == self.up else "n16-tile-major-v2"


@dataclass(frozen=True, slots=True)
class Header:
    meta: Meta
    data_at: int
    file_bytes: int
    description: dict[str, Any]


class Seal:
    """Holds the data of a loaded file against its digest, once."""

    def __init__(self, path: Path, header: Header, *, scales: bool) -> None:
        """`scales`: whether to look for scales that are not finite too."""
        self._path = path
        self._header = header
        self._scales = scales
        self._lock = threading.Lock()
        self._whole = False

    def check(self, data: Bytes, layout: dict[str, int]) -> None:
        """Raises PackFileError, then and whenever it is asked again."""
        with self._lock:
            if self._whole:
                return
            if not _is_whole(self._header.description, data):
                raise PackFileError(f"{self._path} is damaged: its digest does not match")
            if self._scales:
                check_scales(self._header.meta, data, layout)
            self._whole = True


def _describe(meta: Meta, data_bytes: int, digest: str) -> dict[str, Any]:
    own = {"down_format": meta.down.format, "down_group": meta.down.group}
    return {
        "format": meta.up.format,
        "group": meta.up.group,
        **({} if meta.down == meta.up else own),
        **{name: getattr(meta, name) for name in (*_SIZES, "top_k", "act", "layout")},
        "alignment": 64,
        "signed": True,
        "group_axis": "k",
        "row_sum_compensation": False,
        "numa_split": math.lcm(64, meta.up.group, meta.down.group),
        "data_bytes": data_bytes,
        "digest": digest,
    }


def _encode(description: dict[str, Any]) -> bytes:
    return json.dumps(description, sort_keys=True).encode()


def _steps(data: Bytes) -> Iterator[Bytes]:
    return (data[at : at + _STEP] for at in range(0, data.size, _STEP))


def _hash_of(description: dict[str, Any]) -> hashlib.blake2b:
    """Of a file whose data is still to come."""
    return hashlib.blake2b(_encode({**description, "digest": ""}), digest_size=32)


def _is_whole(description: dict[str, Any], data: Bytes) -> bool:
    state, digest = _hash_of(description), str(description.get("digest"))
    summed = digest.startswith(_SUMS)
    try:
        state.update(core().checksums(data) if summed else data)
    except core().FormatError:  # the disk does not give it, or the file was cut short meanwhile
        return False
    return digest.removeprefix(_SUMS) == state.hexdigest()


def _data_at(header_bytes: int) -> int:
    return -(-(_PREFIX.size + header_bytes) // _ALIGN) * _ALIGN


def write(path: Path, meta: Meta, data: Bytes) -> None:
    """Whole or not at all: what is cut off by a crash or a full disk never has the name `path`."""
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=PART, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _fill(file, meta, data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fill(file: BinaryIO, meta: Meta, data: Bytes) -> None:
    description = _describe(meta, data.size, "")
    state = _hash_of(description)
    length = len(_encode({**description, "digest": _SUMS + state.hexdigest()}))
    file.seek(_data_at(length))
    for step in _steps(data):
        state.update(core().checksums(step))
        file.write(step.data)
    header = _encode({**description, "digest": _SUMS + state.hexdigest()})
    file.seek(0)
    file.write(_PREFIX.pack(MAGIC, VERSION, length) + header)


def _read_description(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or prefix[:16] != MAGIC:
            raise PackFileError(f"{path} is not a kt-moe-pack file")
        _, version, length = _PREFIX.unpack(prefix)
        if version != VERSION:
            raise PackFileError(f"{path} has version {version}, this reader knows {VERSION}")
        raw = file.read(min(length, _MAX_HEADER))
        padding = file.read(_data_at(len(raw)) - _PREFIX.size - len(raw))
    if len(raw) != length:
        raise PackFileError(f"{path} is cut short in its header")
    if any(padding):
        raise PackFileError(f"{path} is damaged behind its header")
    return _parsed(path, raw), _data_at(length)


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    """The header, byte for byte as it was written: what reads alike but is not is damage too."""
    try:
        description = json.loads(raw)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict) or _encode(description) != raw:
        raise PackFileError(f"{path} has a damaged header")
    return description


def _meta(path: Path, description: dict[str, Any]) -> Meta:
    for name in (*_SIZES, "top_k", "data_bytes"):
        value = description.get(name)
        if type(value) is not int or not 0 < value < 1 << 48:
            raise PackFileError(f"{path} has a damaged header: {name} is {value!r}")
    if any(description[name] > 1 << 24 for name in _SIZES):
        raise PackFileError(f"{path} has a damaged header: a dimension is too large")
    read = description.get
    up = Coding(read("format", ""), read("group", 0))
    down = Coding(read("down_format", up.format), read("down_group", up.group))
    act = read("act")
    known = all(type(c.format) is str and c.group in (16, 32, 64, 128) for c in (up, down))
    if not known or act not in ("silu", "gelu"):
        raise PackFileError(f"{path} has a damaged header: format, group or act")
    experts, hidden, intermediate = (description[name] for name in _SIZES)
    return Meta(experts, hidden, intermediate, up, down, description["top_k"], act)


def read(path: Path, *, verify: bool = False) -> Header:
    """`verify` checks the data too, for who does not load it."""
    description, data_at = _read_description(path)
    meta = _meta(path, description)
    file_bytes = path.stat().st_size
    wanted = data_at + int(description["data_bytes"])
    if file_bytes != wanted:
        raise PackFileError(f"{path} has {file_bytes} bytes, its header says {wanted}")
    if description.get("layout") != meta.layout:
        raise PackFileError(f"{path} has layout {description.get('layout')}")
    header = Header(meta, data_at, file_bytes, description)
    if verify:
        Seal(path, header, scales=False).check(np.memmap(path, np.uint8, "r", data_at), {})
    return header


def check_scales(meta: Meta, data: Bytes, layout: dict[str, int]) -> None:
    """PackFileError when a scale is NaN or infinite. Scales lie at the end of each expert."""
    experts = data.reshape(meta.num_experts, layout["expert_bytes"])
    up, down = layout["up_scale_at"], layout["down_scale_at"]
    depths = layout["padded_hidden"], layout["padded_intermediate"]
    for n, expert in enumerate(experts):
        gate_up = _finite(meta.up.format, expert[up:down], depths[0])
        if not gate_up or not _finite(meta.down.format, expert[down:], depths[1]):
            raise PackFileError(f"a scale of expert {n} is not finite")


def _finite(format: str, scales: Bytes, depth: int) -> bool:
    """`scales`: of panels whose rows have `depth` weights."""
    if format == "bf16":
        return True
    if format == "mxfp4":
        return bool((scales != 255).all())
    if format == "nvfp4":
        return _finite_nvfp4(scales.reshape(-1, 64 + depth))
    return bool(np.isfinite(scales.view(np.float32 if format == "int8" else np.float16)).all())


def _finite_nvfp4(panels: Bytes) -> bool:
    """Of each panel 16 float32, then a byte of e4m3 for each row and 16 columns."""
    rows = np.ascontiguousarray(panels[:, :64]).view(np.float32)
    return bool(np.isfinite(rows).all() and ((panels[:, 64:] & 127) != 127).all())
