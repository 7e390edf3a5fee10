"""The models folder: one entry a model, a folder of its own or a link to one elsewhere.

An entry is never removed because its target is gone: a disk may come back. Names are single path
components, so that no entry reaches outside the models folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kt_cli import hubcache, unfinished
from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.hub import manifest
from kt_cli.hub.listing import Listing
from kt_cli.modelfiles import model_at, models_at
from kt_cli.weights import sums
from kt_cli.weights.index import missing_shards

State = Literal["ready", "incomplete", "unavailable", "damaged"]
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,95}")
SCAN_DEPTH = 6
_BOOKKEEPING = (".cache", manifest.PARTS)
"""Folders of huggingface_hub and of kt beside a model's files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the store. `path` is where its files are, reachable or not."""

    name: str
    path: str
    state: State
    bytes: int = 0
    linked: bool = False
    repo: str = ""
    revision: str = ""
    why: str = ""
    snapshot: str = ""
    """Where in the user's Hugging Face cache its files are."""


@dataclass(frozen=True, slots=True)
class Store:
    folder: Path

    def entries(self) -> tuple[Entry, ...]:
        unfinished.sweep(self.folder)
        try:
            names = sorted(p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name))
        except FileNotFoundError:
            return ()
        return tuple(self._describe(name) for name in names)

    def entry(self, name: str) -> Entry:
        """Raises NotFoundError."""
        place = self.place(name)
        if not place.exists() and not place.is_symlink():
            known = ", ".join(e.name for e in self.entries()) or "none"
            raise NotFoundError(f"no model here is called {name!r}", f"models here: {known}")
        return self._describe(name)

    def place(self, name: str) -> Path:
        """Where the entry is or would be; UsageError for a name that is no single component."""
        if not _NAME.fullmatch(name):
            fix = "use letters, digits, dot, dash and underscore"
            raise UsageError(f"{name!r} cannot be a model's name", "", fix)
        return self.folder / name

    def free_place(self, name: str) -> Path:
        """Raises KtError when the name is taken."""
        place = self.place(name)
        if place.exists() or place.is_symlink():
            fix = "choose another with --name, or remove it first"
            raise KtError(f"a model called {name!r} is already there", str(place), fix)
        return place

    def add(self, source: Path, name: str) -> Entry:
        """Links a folder or GGUF file; nothing is copied."""
        place = self.free_place(name)
        model_at(source)
        self.folder.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source.resolve(), target_is_directory=source.is_dir())
        return self._describe(name)

    def copy(self, source: Path, name: str) -> Entry:
        """Copies a folder or GGUF file; a copy cut short leaves nothing."""
        place = self.free_place(name)
        model_at(source)
        need_space(self.folder, tree_bytes(source))
        self.folder.mkdir(parents=True, exist_ok=True)
        with unfinished.folder(place) as fresh:
            _copy(source, fresh)
        return self._describe(name)

    def rename(self, name: str, fresh: str) -> Entry:
        self.entry(name)
        self.place(name).rename(self.free_place(fresh))
        return self._describe(fresh)

    def repoint(self, name: str, source: Path) -> Entry:
        """A linked entry whose folder has moved."""
        if not self.entry(name).linked:
            raise UsageError(f"{name} is not a link", "its files are in the models folder")
        model_at(source)
        unfinished.link(self.place(name), source.resolve())
        return self._describe(name)

    def remove(self, name: str) -> Entry:
        """A link loses only itself; a folder of the store is deleted with its files."""
        entry = self.entry(name)
        place = self.place(name)
        if place.is_symlink():
            place.unlink()
        else:
            unfinished.discard(place)
        return entry

    def _describe(self, name: str) -> Entry:
        place = self.folder / name
        linked = place.is_symlink()
        target = place.readlink() if linked else place
        try:
            known = manifest.read(place)
            state, why = _state(place, known)
            size = tree_bytes(place)
        except (KtError, OSError) as error:
            return Entry(name, str(target), "damaged", linked=linked, why=str(error))
        if known is None:
            return Entry(name, str(target), state, size, linked, why=why)
        repo, revision = known.listing.repo, known.listing.revision
        return Entry(name, str(target), state, size, linked, repo, revision, why, known.snapshot)


def cached_entries(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Models of the user's Hugging Face cache that no entry uses: one of each repository."""
    used = {Path(entry.snapshot) for entry in entries}
    newest: dict[str, hubcache.Snapshot] = {}
    for found in hubcache.snapshots():
        newest.setdefault(found.repo, found)
    fresh = [s for s in newest.values() if s.folder not in used and models_at(s.folder)]
    return tuple(_cached(snapshot) for snapshot in fresh)


def _cached(found: hubcache.Snapshot) -> Entry:
    place = str(found.folder)
    try:
        state, why = _unlisted_state(found.folder)
    except KtError as error:
        state, why = "damaged", str(error)
    return Entry(
        found.repo, place, state, found.bytes, False, found.repo, found.revision, why, place
    )


def _copy(source: Path, fresh: Path) -> None:
    """Raises KtError where the disk refuses."""
    try:
        if source.is_dir():
            shutil.copytree(source, fresh, symlinks=False, dirs_exist_ok=True)
        else:
            shutil.copy2(source, fresh / source.name)
    except shutil.Error as error:
        (_, _, why), *_ = error.args[0]
        raise KtError(f"{source} cannot be copied", str(why)) from error
    except OSError as error:
        raise KtError(f"{source} cannot be copied", error.strerror or str(error)) from error


def _state(place: Path, known: manifest.Manifest | None) -> tuple[State, str]:
    if not place.exists():
        return "unavailable", "its disk is not mounted, or the folder was moved"
    bad = ", ".join(sorted(sums.damaged(place)))
    if bad:
        return "damaged", f"its bytes have changed: {bad}"
    if known is None:
        return _unlisted_state(place)
    missing = known.missing(place)
    if missing:
        return "incomplete", f"{len(missing)} of {len(known.listing.files)} files to fetch"
    return "ready", ""


def _unlisted_state(place: Path) -> tuple[State, str]:
    """Of what was not pulled, so that nothing but its files says what should be there."""
    found = models_at(place)
    if len(found) == 1:
        listed, count = missing_shards(place)
        missing, count = (listed, count) if count else (found[0].missing, len(found[0].files))
        gone = f"{len(missing)} of {count} files are not there"
        return ("incomplete", gone) if missing else ("ready", "")
    if found:
        return "ready", f"{len(found)} models; name one by its file, such as {found[0].path.name}"
    return "damaged", "no model files in it"


def scan(root: Path, depth: int = SCAN_DEPTH) -> Iterator[Path]:
    """Model folders and GGUF files below `root`; links are not followed."""
    if not root.is_dir():
        raise NotFoundError(f"{root} is not a folder")
    pending = [(root, 0)]
    while pending:
        folder, level = pending.pop()
        found = models_at(folder)
        if found:
            yield from [found[0].folder] if len(found) == 1 else (model.path for model in found)
            continue
        if level < depth:
            pending += [(child, level + 1) for child in _subfolders(folder)]


def _subfolders(folder: Path) -> list[Path]:
    try:
        children = sorted(folder.iterdir(), reverse=True)
        return [c for c in children if not c.name.startswith(".") and _is_own_folder(c)]
    except OSError:
        return []


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def tree_bytes(path: Path) -> int:
    """Bytes of all files below, hidden bookkeeping left out; 0 for what is not there."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for base, folders, names in os.walk(path):
        folders[:] = [f for f in folders if f not in _BOOKKEEPING]
        files = (Path(base) / name for name in names if not name.startswith(".kt-"))
        size += sum(f.stat().st_size for f in files if f.exists())
    return size


def need_space(folder: Path, count: int) -> None:
    """Raises KtError when the disk of `folder` has less than `count` bytes free."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if count > free:
        gigabytes = f"{count / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
        fix = f"free {(count - free) / 1e9:.1f} GB, or choose another disk with --to"
        raise KtError(f"the disk of {folder} is too small", gigabytes, fix)


def default_name(source: Listing | Path) -> str:
    """A name for the store made from a repository or a path."""
    base = source.repo.rpartition("/")[2] if isinstance(source, Listing) else source.stem
    name = re.sub(r"[^\w.+-]+", "-", base).strip("-.")
    return name or "model"
