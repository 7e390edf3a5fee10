"""What on disk is a model: the one definition for everything that looks for one.

A model is a folder with config.json and safetensors, a GGUF file, or a folder with the GGUF files
of one model, directly or in one folder below. A GGUF series with numbers in its names is one model.
Projectors of vision models and importance matrices are no models, whatever stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kt_cli.errors import AuthError, NotFoundError

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
WEIGHTS, NUMBERED = "*.safetensors", "model-*-of-*.safetensors"
WHAT = "a model is a GGUF file, or a folder with config.json and safetensors"
_ENDING, _MAGIC = ".gguf", b"GGUF"
SERIES = re.compile(r"-(\d{5})-of-(\d{5})(\.gguf|\.safetensors)\Z", re.IGNORECASE)
ASIDE = re.compile(r"mmproj|imatrix|ggml-vocab", re.IGNORECASE)
"""Names of GGUF files that come with a model and are none."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """`path` names the model; `files` are all of a series, whether they are there or not, or the
    one GGUF file. Without numbers in their names, those of safetensors are left to the index."""

    path: Path
    form: Literal["safetensors", "gguf"]
    files: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        return self.path if self.form == "safetensors" else self.path.parent

    @property
    def missing(self) -> tuple[Path, ...]:
        return tuple(file for file in self.files if not file.is_file())


def models_at(path: Path) -> tuple[ModelFiles, ...]:
    """All models that a path may mean, those with missing files among them; none where it cannot
    be read."""
    try:
        return _models(path)
    except OSError:
        return ()


def model_at(path: Path) -> ModelFiles:
    """Raises NotFoundError that says why there is no model, or which of several could be meant."""
    try:
        found = _models(path)
    except PermissionError as error:
        fix = "allow this user to read it"
        raise AuthError(f"cannot read {path}", "permission denied", fix) from error
    except OSError as error:
        raise NotFoundError(f"no model at {path}", error.strerror or str(error)) from error
    if not found:
        raise _nothing(path)
    if len(found) > 1:
        names = ", ".join(model.path.name for model in found[:4])
        raise NotFoundError(
            f"{path} holds several models", names, f"name one of them, such as {found[0].path}"
        )
    _require_whole(found[0])
    return found[0]


def _models(path: Path) -> tuple[ModelFiles, ...]:
    if path.is_file():
        return (_series(path),) if _is_gguf(path) else ()
    if not path.is_dir():
        return ()
    if (path / CONFIG).is_file() and ((path / INDEX).is_file() or any(path.glob(WEIGHTS))):
        numbered = next((file for file in sorted(path.glob(NUMBERED)) if file.is_file()), None)
        files = _series_of(numbered) if numbered else ()
        return (ModelFiles(path, "safetensors", files),)
    own = _in_folder(path)
    return own or tuple(m for folder in _folders(path) for m in _in_folder(folder))


def _is_gguf(path: Path) -> bool:
    if path.suffix.lower() == _ENDING:
        return True
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _in_folder(folder: Path) -> tuple[ModelFiles, ...]:
    """Each series once."""
    found = dict.fromkeys(_series(file) for file in _gguf_files(folder))
    return tuple(found)


def _gguf_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        named = path.suffix.lower() == _ENDING and not ASIDE.search(path.name)
        if named and not path.name.startswith(".") and path.is_file():
            yield path


def _folders(path: Path) -> Sequence[Path]:
    folders = (p for p in path.iterdir() if not p.name.startswith(".") and not p.is_symlink())
    return sorted(p for p in folders if p.is_dir())


def _series(path: Path) -> ModelFiles:
    files = _series_of(path) or (path,)
    return ModelFiles(files[0], "gguf", files)


def _series_of(path: Path) -> tuple[Path, ...]:
    match = SERIES.search(path.name)
    if not match:
        return ()
    stem, count = path.name[: match.start()], int(match[2])
    numbered = (f"{stem}-{i:05d}-of-{count:05d}{match[3]}" for i in range(1, count + 1))
    return tuple(path.with_name(name) for name in numbered)


def _require_whole(model: ModelFiles) -> None:
    missing = model.missing
    if missing:
        raise NotFoundError(
            f"{missing[0].parent} is not complete",
            f"{len(missing)} of {len(model.files)} files are not there, such as {missing[0].name}",
            "download the model again",
        )


def _nothing(path: Path) -> NotFoundError:
    if path.is_dir() and (path / CONFIG).is_file():
        return NotFoundError(f"no safetensors in {path}", "it has a config.json only", WHAT)
    if path.is_dir() and any(path.glob(WEIGHTS)):
        why = "it has safetensors, which need the configuration of their model"
        return NotFoundError(f"no {CONFIG} in {path}", why, WHAT)
    why = "" if path.exists() else "it does not exist"
    return NotFoundError(f"no model at {path}", why, WHAT)
