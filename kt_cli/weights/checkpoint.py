"""Tensors of a folder of safetensors by name, mapped from disk and read when they are used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from kt_moe.files.safetensors import NUMPY

from kt_cli.errors import KtError, NotFoundError
from kt_cli.weights.floats import Array, Bytes
from kt_cli.weights.headers import TensorInfo
from kt_cli.weights.index import read_shards
from kt_cli.weights.sums import Guard

if TYPE_CHECKING:
    import torch

# Floats that numpy lacks come as integers of their width; torch views them as what they are.
TORCH: Mapping[str, str] = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


class Checkpoint:
    """Raises what `read_shards` raises when the folder is not whole or its headers are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = Guard(path)
        self._guard.check_small()
        self._guard.check_heads()
        shards = read_shards(path)
        self._infos = {n: info for held in shards.values() for n, info in held.items()}
        self._files = {name: file for file, held in shards.items() for name in held}
        self._maps: dict[str, Bytes] = {}
        for file, held in shards.items():
            self._require(file, 0, min((info.start for info in held.values()), default=0))

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def names(self) -> Iterable[str]:
        return self._infos.keys()

    def info(self, name: str) -> TensorInfo:
        if name not in self._infos:
            raise NotFoundError(f"{self.path} has no tensor {name}")
        return self._infos[name]

    def dtype(self, name: str) -> str:
        return self.info(name).dtype

    def __getitem__(self, name: str) -> Array:
        """A read-only view into the file; bf16 as uint16, fp8 and e8m0 as uint8.

        Raises TransferError where that part of the file is damaged; see `weights.sums`.
        """
        info = self.info(name)
        kind = NUMPY.get(info.dtype)
        if kind is None:
            raise KtError(f"cannot read tensor {name}", f"its dtype {info.dtype} is not known here")
        self._require(self._files[name], info.start, info.end)
        part = self._map(self._files[name])[info.start : info.end]
        view: Array = part.view(kind).reshape(info.shape)
        return view

    def get(self, name: str) -> torch.Tensor:
        """A copy in memory, in the dtype that the file says."""
        return self._as_stored(name, np.array(self[name]))

    def mapped(self, name: str) -> torch.Tensor:
        """The tensor where its file is mapped, which must not be written to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch knows no read-only tensors
            return self._as_stored(name, self[name])

    def expect(self, names: Iterable[str]) -> None:
        """Has the disk read tensors that are used soon, at once rather than as they are used."""
        by_file: dict[str, list[TensorInfo]] = {}
        for info in map(self.info, names):
            by_file.setdefault(self._files[info.name], []).append(info)
        for file, infos in by_file.items():
            with (self.path / file).open("rb") as opened:
                for info in infos:
                    place = opened.fileno(), info.start, info.end - info.start
                    os.posix_fadvise(*place, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Files stay mapped as long as tensors are."""
        self._maps.clear()

    def _as_stored(self, name: str, array: Array) -> torch.Tensor:
        import torch

        tensor: Any = torch.from_numpy(array)
        dtype = TORCH.get(self.dtype(name))
        return tensor.view(getattr(torch, dtype)) if dtype else tensor

    def _require(self, file: str, start: int, end: int) -> None:
        self._guard.check(file, self._map(file), start, end)

    def _map(self, file: str) -> Bytes:
        if file not in self._maps:
            self._maps[file] = np.memmap(self.path / file, dtype=np.uint8, mode="r")
        return self._maps[file]
