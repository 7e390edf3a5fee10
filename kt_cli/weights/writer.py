"""Writes a sharded safetensors checkpoint as a stream: one tensor in memory at a time.

The caller says first what will come (names, dtypes, shapes), then hands over the tensors in that
order. Numpy has no bf16 or fp8: such tensors are unsigned integers of the same width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from kt_cli.modelfiles import INDEX
from kt_cli.weights.floats import Array
from kt_cli.weights.headers import TensorInfo

SHARD_BYTES = 5_000_000_000


def write_checkpoint(
    folder: Path,
    tensors: Sequence[TensorInfo],
    data: Iterable[Array],
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] = lambda written: None,
) -> list[str]:
    """Returns the names of the files written; `progress` hears the bytes written so far.

    Files get their final names at once: write into a folder that is renamed when it is whole.
    Raises ValueError when the data does not match the announced tensors.
    """
    shards = _split(tensors, shard_bytes)
    names = _shard_names(len(shards))
    arrays = iter(data)
    written = 0
    for name, shard in zip(names, shards, strict=True):
        with (folder / name).open("wb") as file:
            file.write(_header(shard))
            for info in shard:
                _write(file, info, next(arrays, None))
                written += info.nbytes
                progress(written)
            _to_disk(file)
    if next(arrays, None) is not None:
        raise ValueError("more tensors came than were announced")
    return [*names, *_index(folder, names, shards)]


def _split(tensors: Sequence[TensorInfo], limit: int) -> list[list[TensorInfo]]:
    shards: list[list[TensorInfo]] = [[]]
    filled = 0
    for info in tensors:
        if shards[-1] and filled + info.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(info)
        filled += info.nbytes
    return shards


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _header(shard: Sequence[TensorInfo]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for info, (start, end) in zip(shard, _offsets(shard), strict=True):
        entries[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _offsets(shard: Sequence[TensorInfo]) -> Iterator[tuple[int, int]]:
    at = 0
    for info in shard:
        yield at, at + info.nbytes
        at += info.nbytes


def _write(file: BinaryIO, info: TensorInfo, array: Array | None) -> None:
    if array is None:
        raise ValueError(f"the data ended before tensor {info.name}")
    if array.shape != info.shape or array.nbytes != info.nbytes:
        raise ValueError(f"tensor {info.name} came as {array.shape}, announced as {info.shape}")
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    file.write(memoryview(array.reshape(-1)).cast("B"))


def _index(folder: Path, names: Sequence[str], shards: Sequence[list[TensorInfo]]) -> list[str]:
    if len(names) == 1:
        return []
    pairs = list(zip(names, shards, strict=True))
    total = sum(info.nbytes for shard in shards for info in shard)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {info.name: name for name, shard in pairs for info in shard},
    }
    with (folder / INDEX).open("wb") as file:
        file.write(json.dumps(index, indent=2).encode())
        _to_disk(file)
    return [INDEX]


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
