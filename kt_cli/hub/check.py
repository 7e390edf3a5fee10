"""Whether files are what the hub says they are, and sums of those that are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_cli.errors import KtError
from kt_cli.hub.listing import RemoteFile
from kt_cli.hub.manifest import Manifest
from kt_cli.weights import sums

CHUNK = 1 << 20

Report = Callable[[str, int], None]
"""Called with a file's path and how many of its bytes are here."""


class Wrong(Exception):
    """The bytes at hand are not the file's."""


class Again(Exception):
    """The attempt failed in a way that another may not; `wait_s` is what the server asked for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Digest:
    """The checksum that the hub tells, and the sums that are kept beside the files."""

    def __init__(self, file: RemoteFile) -> None:
        head = b"" if file.sha256 else f"blob {file.size}\0".encode()
        self._hash: Any = (
            hashlib.sha256() if file.sha256 else hashlib.sha1(head, usedforsecurity=False)
        )
        self.sums = sums.Summing()

    def update(self, data: bytes) -> None:
        self._hash.update(data)
        self.sums.update(data)

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())


def feed(digest: Digest, path: Path) -> int:
    """Hashes what is already there; returns its length."""
    length = 0
    if path.exists():
        with path.open("rb") as handle:
            while block := handle.read(CHUNK):
                digest.update(block)
                length += len(block)
    return length


def compare(file: RemoteFile, digest: Digest) -> None:
    expected = file.sha256 or file.git_sha1
    if expected and digest.hexdigest() != expected:
        raise Wrong(f"checksum {digest.hexdigest()[:12]}… instead of {expected[:12]}…")


def right(path: Path, file: RemoteFile) -> Digest | None:
    """None for a file that is not there or not right."""
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    digest = Digest(file)
    feed(digest, path)
    try:
        compare(file, digest)
    except Wrong:
        return None
    return digest


def kept_sums(folder: Path) -> dict[str, sums.FileSums]:
    with suppress(KtError):
        kept = sums.read(folder)
        return dict(kept.files) if kept else {}
    return {}


def keep_sums(folder: Path, files: Mapping[str, sums.FileSums], mended: Collection[str]) -> None:
    name = folder.name
    remedy = f"`kt model verify {name} --repair` fetches it again"
    sums.write(folder, sums.Sums(files, remedy))
    sums.mended(folder, mended)


@dataclass(frozen=True, slots=True)
class Fault:
    """A file of a model that is not as it should be."""

    path: str
    why: str


def verify(folder: Path, known: Manifest, report: Report) -> tuple[tuple[Fault, ...], Manifest]:
    """Reads every file; the faults, and the manifest with what was found right."""
    faults: list[Fault] = []
    good, found = Manifest(known.listing), {}
    for file in known.listing.files:
        digest = right(folder / file.path, file)
        if digest is None:
            faults.append(Fault(file.path, _fault(folder / file.path, file)))
        else:
            good = good.with_verified(folder, file)
            found[file.path] = digest.sums.result(folder / file.path)
        report(file.path, file.size)
    keep_sums(folder, found, mended=found)
    return tuple(faults), good


def _fault(path: Path, file: RemoteFile) -> str:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    return (
        "has the wrong checksum"
        if size == file.size
        else (f"has {size} bytes instead of {file.size}")
    )
