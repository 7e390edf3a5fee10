"""A checkpoint on this machine → `Model`: configuration and tensor headers, never the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from kt_cli.catalog.config import load, parse
from kt_cli.catalog.describe import from_tensors
from kt_cli.catalog.gguf_files import gguf_files
from kt_cli.core.model import Model
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.weights.headers import INDEX, TensorInfo, read_header

SHARDS = "*.safetensors"
SERIES = "model-*-of-*.safetensors"
REPEAT = "download the model again"


def read(path: Path) -> Model:
    """A folder with config.json and safetensors, or a GGUF file or folder of such.

    Raises NotFoundError where something is missing, TransferError where something is damaged,
    KtError where something is not known.
    """
    path = path.expanduser()
    files = gguf_files(path)
    if files:
        from kt_cli.catalog.gguf import read_gguf

        return read_gguf(files)
    if not path.is_dir():
        raise NotFoundError(f"no model at {path}", "a folder or a GGUF file was expected there")
    values = load(path / "config.json")
    tensors = read_tensors(path)
    model = from_tensors(values, tensors.values(), path.resolve().name, str(path))
    return replace(model, path=str(path))


def read_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a checkpoint; an index and its shards must agree."""
    index = folder / INDEX
    if index.is_file():
        weight_map = index_of(index.read_bytes(), str(index))
        return _indexed(folder, weight_map)
    shards = sorted(folder.glob(SHARDS))
    if len(shards) > 1:
        raise NotFoundError(
            f"no {INDEX} in {folder}",
            f"it has {len(shards)} safetensors files and nothing that says which belong together",
            "download the model again",
        )
    if not shards:
        raise NotFoundError(f"no safetensors in {folder}", "the folder has a config.json only")
    return read_header(shards[0])


def index_of(content: bytes, where: str) -> dict[str, str]:
    """Tensor name → file name; a name that leads out of the folder is refused."""
    weight_map = parse(content, where).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise TransferError(f"{where} has no `weight_map`", "", "download it again")
    for file in set(weight_map.values()):
        if not isinstance(file, str) or PurePosixPath(file).name != file or "\\" in file:
            raise KtError(f"{where} names the file {file!r}", "it leads out of the model's folder")
    return dict(weight_map)


def joined(
    weight_map: Mapping[str, str], shards: Mapping[str, Mapping[str, TensorInfo]], where: str
) -> dict[str, TensorInfo]:
    """Tensors of all shards; each one must be where the index says."""
    for name, file in weight_map.items():
        if name not in shards[file]:
            why = f"{INDEX} says that {file} has it"
            raise TransferError(f"{where} does not hold {name}", why, REPEAT)
    return {name: info for held in shards.values() for name, info in held.items()}


def _indexed(folder: Path, weight_map: Mapping[str, str]) -> dict[str, TensorInfo]:
    files = sorted(set(weight_map.values()))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise _incomplete(folder, missing, len(files))
    strange = [path.name for path in sorted(folder.glob(SERIES)) if path.name not in files]
    if strange:
        why = f"it has {strange[0]} and {INDEX} does not name it"
        raise TransferError(f"{folder} holds two models, or half of one", why, REPEAT)
    return joined(weight_map, {file: read_header(folder / file) for file in files}, str(folder))


def _incomplete(folder: Path, missing: Sequence[str], count: int) -> NotFoundError:
    return NotFoundError(
        f"{folder} is not complete",
        f"{len(missing)} of {count} files of its index are not there, such as {missing[0]}",
        "download the model again; what is there already is kept",
    )
