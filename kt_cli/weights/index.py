"""Which file of a checkpoint holds which tensor: one file, or shards with an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from kt_cli.documents import Source, parse_json, read_bytes, shown
from kt_cli.errors import NotFoundError, TransferError
from kt_cli.modelfiles import INDEX, NUMBERED, WEIGHTS
from kt_cli.weights.headers import TensorInfo, read_header

MAX_INDEX = 200_000_000
"""A million tensors, each with the names of itself and of its file."""
ENDING = ".safetensors"
REPEAT = "download the model again"


Shards = Mapping[str, Mapping[str, TensorInfo]]
"""File name → what it holds."""


def read_shards(folder: Path) -> Shards:
    """Headers of all files of a checkpoint; an index and its shards must agree."""
    index = folder / INDEX
    if index.exists():
        weight_map = index_of(read_bytes(index, limit=MAX_INDEX), str(index))
        return _indexed(folder, weight_map)
    shards = sorted(folder.glob(WEIGHTS))
    if len(shards) > 1:
        raise NotFoundError(
            f"no {INDEX} in {folder}",
            f"it has {len(shards)} safetensors files and nothing that says which belong together",
            "download the model again",
        )
    if not shards:
        raise NotFoundError(f"no safetensors in {folder}", "the folder has a config.json only")
    return {shards[0].name: read_header(shards[0])}


def missing_shards(folder: Path) -> tuple[list[str], int]:
    """Files that the index names and that are not there, and how many it names; none without it.

    Raises TransferError for an index that is damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        return [], 0
    files = _files(index_of(read_bytes(index, limit=MAX_INDEX), str(index)))
    return _missing(folder, files), len(files)


def _files(weight_map: Mapping[str, str]) -> list[str]:
    return sorted(set(weight_map.values()))


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [file for file in files if not (folder / file).is_file()]


def index_of(content: bytes, where: str) -> dict[str, str]:
    """Tensor name → file name; a name that leads out of the folder is refused."""
    source = Source(where)
    weight_map = parse_json(content, source).part("weight_map")
    if not weight_map.values:
        raise source.wrong("it has no `weight_map`")
    files = {weight_map.text(name) for name in weight_map.values}
    for file in files:
        if PurePosixPath(file).name != file or "\\" in file or not file.endswith(ENDING):
            raise source.wrong(f"it names the file {shown(file)}, no safetensors of this folder")
    return dict(weight_map.values)


def require_agreement(weight_map: Mapping[str, str], shards: Shards, where: str) -> None:
    """Each tensor must be where the index says."""
    for name, file in weight_map.items():
        if name not in shards[file]:
            why = f"{INDEX} says that {file} has it"
            raise TransferError(f"{where} does not hold {name}", why, REPEAT)


def _indexed(folder: Path, weight_map: Mapping[str, str]) -> Shards:
    files = _files(weight_map)
    missing = _missing(folder, files)
    if missing:
        raise _incomplete(folder, missing, len(files))
    strange = [path.name for path in sorted(folder.glob(NUMBERED)) if path.name not in files]
    if strange:
        why = f"it has {strange[0]} and {INDEX} does not name it"
        raise TransferError(f"{folder} holds two models, or half of one", why, REPEAT)
    shards = {file: read_header(folder / file) for file in files}
    require_agreement(weight_map, shards, str(folder))
    return shards


def _incomplete(folder: Path, missing: Sequence[str], count: int) -> NotFoundError:
    return NotFoundError(
        f"{folder} is not complete",
        f"{len(missing)} of {count} files of its index are not there, such as {missing[0]}",
        "download the model again; what is there already is kept",
    )
