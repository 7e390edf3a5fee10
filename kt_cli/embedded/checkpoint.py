"""Tensors of a directory of safetensors files, by the names they have there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kt_cli.errors import NotFoundError, TransferError


class Checkpoint:
    """Reads one tensor at a time; files are mapped, so nothing else takes memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[str, Any] = {}
        self._files = self._index(path / "model.safetensors.index.json")

    @property
    def names(self) -> Iterable[str]:
        return self._files.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._handle(self._files[name]).get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """A copy of the tensor, on the CPU, as it is stored."""
        file = self._files[name]
        try:
            tensor: torch.Tensor = self._handle(file).get_tensor(name)
        except SafetensorError as error:
            fix = "download the model again"
            raise TransferError(f"{self.path / file} holds no {name}", str(error), fix) from error
        return tensor

    def close(self) -> None:
        self._open.clear()

    def _index(self, index: Path) -> dict[str, str]:
        if not index.is_file():
            files = sorted(file.name for file in self.path.glob("*.safetensors"))
            if not files:
                raise NotFoundError(f"no safetensors files in {self.path}")
            return {name: file for file in files for name in self._handle(file).keys()}  # noqa: SIM118
        try:
            weights: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError) as error:
            raise TransferError(f"{index} is not a weight index", str(error)) from error
        return dict(weights)

    def _handle(self, file: str) -> Any:
        if file not in self._open:
            path = self.path / file
            try:
                self._open[file] = safe_open(path, framework="pt", device="cpu")
            except FileNotFoundError as error:
                fix = "download the model again"
                raise TransferError(f"{path} is missing", "the index names it", fix) from error
            except SafetensorError as error:
                fix = "download the model again"
                raise TransferError(f"{path} is damaged", str(error), fix) from error
        return self._open[file]
