"""What a repository holds at one revision: files, sizes and checksums.

Hugging Face: `HfApi.model_info(files_metadata=True)` of huggingface_hub.
ModelScope: `GET /api/v1/models/{repo}/repo/files?Revision={rev}&Recursive=true`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from kt_cli.errors import TransferError, UsageError

Hub = Literal["huggingface", "modelscope"]
_REPO = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_DANGEROUS = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".py", ".sh", ".exe", ".so", ".dll")
"""Pickles and programs: a model in safetensors or GGUF needs none of them."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    path: str
    """Relative, with slashes; checked to stay inside the model's folder."""
    size: int
    sha256: str = ""
    git_sha1: str = ""
    """Git's blob hash, for small files that carry no sha256."""


@dataclass(frozen=True, slots=True)
class Listing:
    hub: Hub
    repo: str
    revision: str
    """The commit, so that a branch that moves mid-way changes nothing."""
    files: tuple[RemoteFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    def select(self, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> Listing:
        """The files that a person named; pickles and programs only when named."""
        wanted, unwanted = tuple(include), tuple(exclude)
        kept = [f for f in self.files if _wanted(f.path, wanted) and not _any(f.path, unwanted)]
        return replace(self, files=tuple(kept))


def _wanted(path: str, include: tuple[str, ...]) -> bool:
    return _any(path, include) if include else not path.endswith(_DANGEROUS)


def _any(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in patterns)


def check_repo(repo: str) -> str:
    """Raises UsageError unless `repo` is OWNER/NAME."""
    if not _REPO.fullmatch(repo) or ".." in repo:
        raise UsageError(f"{repo!r} is not a repository", "", "write it as OWNER/NAME")
    return repo


def safe_path(path: str) -> str:
    """Raises TransferError for a path that would leave the model's folder."""
    pure = PurePosixPath(path)
    bad = pure.is_absolute() or ".." in pure.parts or not pure.parts
    odd = "\\" in path or "\0" in path or any(ord(c) < 32 for c in path)
    if bad or odd or any(part.startswith(".kt") for part in pure.parts):
        raise TransferError(
            f"the repository names a file {path!r}",
            "it would be written outside the model's folder",
            "do not use this repository",
        )
    return str(pure)


def from_huggingface(repo: str, info: Any) -> Listing:
    """Of huggingface_hub's ModelInfo; raises TransferError when it lacks what a download needs."""
    try:
        if not info.sha:
            raise ValueError("it names no commit")
        files = tuple(_huggingface_file(entry) for entry in info.siblings or ())
        return Listing("huggingface", repo, str(info.sha), files)
    except (KeyError, TypeError, ValueError) as error:
        raise odd_answer(repo, error) from error


def _huggingface_file(entry: Any) -> RemoteFile:
    lfs = entry.lfs or {}
    path, size = safe_path(entry.rfilename), int(lfs.get("size", entry.size or 0))
    sha256 = str(lfs.get("sha256", ""))
    return RemoteFile(path, size, sha256, "" if sha256 else str(entry.blob_id or ""))


def from_modelscope(repo: str, revision: str, data: Mapping[str, Any]) -> Listing:
    """Raises TransferError when the answer lacks what a download needs."""
    try:
        entries = [e for e in data["Data"]["Files"] if e.get("Type") != "tree"]
        files = tuple(
            RemoteFile(safe_path(e["Path"]), int(e["Size"]), str(e.get("Sha256") or ""))
            for e in entries
        )
        return Listing("modelscope", repo, revision, files)
    except (KeyError, TypeError, ValueError) as error:
        raise odd_answer(repo, error) from error


def odd_answer(repo: str, error: Exception) -> TransferError:
    return TransferError(
        f"the hub's answer for {repo} is not understood", f"{type(error).__name__}: {error}"
    )
