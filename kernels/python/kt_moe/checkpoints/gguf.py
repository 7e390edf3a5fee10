"""Experts in GGUF: `blk.{L}.ffn_{gate|up|down}_exps.weight` [E, out, in], one file or several.

The format drops axes of length one at the end, so one expert alone is a matrix.
"""

from __future__ import annotations

from pathlib import Path

from kt_moe.checkpoints.source import LayerSource, Wanted, enough
from kt_moe.files import FileError, GgufFile
from kt_moe.formats import GgufBlocks
from kt_moe.formats.load import Triple


def open_layer(path: Path, wanted: Wanted) -> LayerSource:
    files = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if not files:
        raise FileNotFoundError(f"no GGUF file in {path}")
    opened = [GgufFile.open(file) for file in files]
    names = [f"blk.{wanted.layer}.ffn_{p}_exps.weight" for p in ("gate", "up", "down")]
    holders = [_holder(opened, name, path) for name in names]
    count = min(_stack(h, n)[0] for h, n in zip(holders, names, strict=True))

    def triple(e: int) -> Triple:
        gate, up, down = (_expert(h, n, e) for h, n in zip(holders, names, strict=True))
        return gate, up, down

    return enough(LayerSource(count, triple), wanted, path)


def _holder(files: list[GgufFile], name: str, path: Path) -> GgufFile:
    for file in files:
        if name in file.tensors:
            if len(file.tensors[name].shape) not in (2, 3):
                raise FileError(f"{file.path}: {name} is no stack of experts")
            return file
    raise FileError(f"{path} has no tensor {name}")


def _stack(file: GgufFile, name: str) -> tuple[int, int, int]:
    """Experts, rows and columns."""
    *experts, rows, columns = file.tensors[name].shape
    return (experts[0] if experts else 1), rows, columns


def _expert(file: GgufFile, name: str, e: int) -> GgufBlocks:
    tensor = file.tensors[name]
    experts, rows, columns = _stack(file, name)
    size = tensor.nbytes // experts
    raw = file.raw(name)[e * size : (e + 1) * size]
    return GgufBlocks(raw, tensor.type, (rows, columns))
