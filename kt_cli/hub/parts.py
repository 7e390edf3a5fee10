"""Parts of files on their way, in a hidden folder beside where they will be."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kt_cli.hub.listing import RemoteFile
from kt_cli.hub.manifest import PARTS


def part_of(folder: Path, file: RemoteFile) -> Path:
    key = hashlib.sha256(f"{file.path}\0{file.sha256 or file.git_sha1}".encode()).hexdigest()
    place = folder / PARTS
    place.mkdir(exist_ok=True)
    return place / f"{key[:32]}.part"


def clear_parts(folder: Path) -> None:
    for part in (folder / PARTS).glob("*.part"):
        part.unlink()


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
