"""The model's folder: what it should hold, at which commit, and what was already verified.

`.kt-model.json` is written before the first byte is fetched and after each finished file, so that a
killed download goes on where it stopped, at the same commit.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kt_cli import unfinished
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, read_json
from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.hub.listing import Listing, RemoteFile, safe_path
from kt_cli.weights import sums

NAME = ".kt-model.json"
PARTS = ".kt-parts"
VERSION = 1
MAX_BYTES = 64_000_000
"""A repository may hold a hundred thousand files."""


@dataclass(frozen=True, slots=True)
class Manifest:
    listing: Listing
    verified: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Path → (size, modification time in ns) of a file whose checksum was right."""
    snapshot: str = ""
    """Folder of the Hugging Face cache that the files are links into; empty where they are here."""
    branch: str = ""
    """What was asked for by name; the cache knows the commit by it."""
    version: int = VERSION

    def is_verified(self, folder: Path, file: RemoteFile) -> bool:
        try:
            stat = (folder / file.path).stat()
        except OSError:
            return False
        return self.verified.get(file.path) == (stat.st_size, stat.st_mtime_ns)

    def with_verified(self, folder: Path, file: RemoteFile) -> Manifest:
        stat = (folder / file.path).stat()
        return replace(
            self, verified={**self.verified, file.path: (stat.st_size, stat.st_mtime_ns)}
        )

    def missing(self, folder: Path) -> tuple[RemoteFile, ...]:
        """Also what was found damaged since; see `weights.sums`."""
        bad = sums.damaged(folder)
        files = self.listing.files
        return tuple(f for f in files if f.path in bad or not self.is_verified(folder, f))

    def lacks(self, folder: Path, file: RemoteFile) -> bool:
        return file.path in sums.damaged(folder) or not self.is_verified(folder, file)

    def complete(self, folder: Path) -> bool:
        return not self.missing(folder)


def read(folder: Path) -> Manifest | None:
    """None where no download was started; TransferError for a manifest that is damaged."""
    path = folder / NAME
    fix = f"remove {path} and pull the model again; finished files are kept"
    try:
        manifest = from_plain(Manifest, read_json(path, Source(str(path), fix), MAX_BYTES).values)
    except NotFoundError:
        return None
    except ShapeError as error:
        raise TransferError(f"{path} has the wrong shape", str(error), fix) from error
    for file in manifest.listing.files:
        safe_path(file.path)
    return manifest


def write(folder: Path, manifest: Manifest) -> None:
    unfinished.write(folder / NAME, json.dumps(to_plain(manifest), indent=1))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises KtError when another process works on the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".kt-lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fix = "wait for it, or stop it"
            raise KtError(f"another download works in {folder}", "", fix) from error
        yield
