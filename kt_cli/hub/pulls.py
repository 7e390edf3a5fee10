"""A pull from start to end: what is asked for, where it goes, what is missing, and the fetching."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kt_cli import hubcache
from kt_cli.errors import KtError, NotFoundError
from kt_cli.hub import manifest
from kt_cli.hub.client import Client
from kt_cli.hub.fetch import WORKERS, Download
from kt_cli.hub.listing import Listing, RemoteFile
from kt_cli.hub.store import Store, default_name, need_space


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asked for."""

    repo: str
    revision: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    name: str = ""
    to: Path | None = None
    """Folder on another disk; the store then holds a link."""
    workers: int = WORKERS


@dataclass(frozen=True, slots=True)
class Pull:
    """A pull that is ready to run: every check that needs no byte has passed."""

    client: Client
    listing: Listing
    name: str
    place: Path
    """Where the store knows it."""
    folder: Path
    """Where the files go, or the links to them."""
    snapshot: Path | None
    """Where in the user's Hugging Face cache the files go."""
    branch: str
    workers: int
    resumed: bool
    here: Mapping[str, int]
    """Bytes of files that are here already."""

    @property
    def have(self) -> int:
        return sum(self.here.values())

    @property
    def to_fetch(self) -> int:
        return self.listing.bytes - self.have

    def run(self, tell: Callable[[int], None]) -> None:
        """`tell` gets how many bytes are here; safe to repeat after any failure."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder != self.place and not self.place.is_symlink():
            self.place.parent.mkdir(parents=True, exist_ok=True)
            self.place.symlink_to(self.folder, target_is_directory=True)
        download = Download(
            self.client,
            self.listing,
            self.folder,
            Counter(self.here, tell),
            self.workers,
            snapshot=str(self.snapshot or ""),
            branch=self.branch,
        )
        download.run()


class Counter:
    """Sums what the workers report, file by file."""

    def __init__(self, here: Mapping[str, int], tell: Callable[[int], None]) -> None:
        self._files = dict(here)
        self._total = sum(self._files.values())
        self._tell = tell
        self._lock = threading.Lock()

    def __call__(self, path: str, here: int) -> None:
        with self._lock:
            self._total += here - self._files.get(path, 0)
            self._files[path] = here
            self._tell(self._total)


def prepare(client: Client, store: Store, wanted: Wanted) -> Pull:
    """Asks the hub, chooses the files, checks name and disk. Writes nothing."""
    name = wanted.name or default_name(Path(wanted.repo))
    place = store.place(name)
    known = manifest.read(place) if place.exists() else None
    resumed = known is not None and _same(known, wanted)
    listing = known.listing if known and resumed else _ask(client, wanted)
    if place.exists() and (known is None or known.listing.repo != listing.repo):
        fix = "choose another with --name, or remove it first"
        raise KtError(f"a model called {name!r} is already there", str(place), fix)
    folder = _folder(place, wanted, name)
    snapshot = _snapshot(listing, place, folder)
    here = {f.path: f.size for f in listing.files if _is_here(f, known, folder, snapshot)}
    need_space(snapshot or folder, listing.bytes - sum(here.values()))
    branch = known.branch if known and resumed else wanted.revision or "main"
    return Pull(
        client, listing, name, place, folder, snapshot, branch, wanted.workers, resumed, here
    )


def _snapshot(listing: Listing, place: Path, folder: Path) -> Path | None:
    """None where the files go to a folder of their own: from ModelScope, or with --to."""
    if listing.hub != "huggingface" or folder != place:
        return None
    return hubcache.snapshot_folder(listing.repo, listing.revision)


def _is_here(
    file: RemoteFile, known: manifest.Manifest | None, folder: Path, snapshot: Path | None
) -> bool:
    """Verified here, or in the cache with the right size and to be verified."""
    if known and not known.lacks(folder, file):
        return True
    cached = snapshot / file.path if snapshot else None
    return bool(cached and cached.is_file() and cached.stat().st_size == file.size)


def _folder(place: Path, wanted: Wanted, name: str) -> Path:
    if place.is_symlink():
        target = place.resolve()
        if not target.exists():
            why = f"{name} is a link to {target}, whose disk is not mounted"
            raise NotFoundError(f"the folder of {name} is not there", why, "mount it first")
        return target
    return (wanted.to.expanduser().absolute() / name) if wanted.to else place


def _ask(client: Client, wanted: Wanted) -> Listing:
    listing = client.listing(wanted.repo, wanted.revision).select(wanted.include, wanted.exclude)
    if not listing.files:
        raise NotFoundError(f"{wanted.repo} has no file that was asked for")
    return listing


def _same(known: manifest.Manifest, wanted: Wanted) -> bool:
    """A pull goes on at the commit where it began, unless something else is asked for."""
    pinned = not wanted.revision or wanted.revision == known.listing.revision
    return known.listing.repo == wanted.repo and pinned and not (wanted.include or wanted.exclude)
