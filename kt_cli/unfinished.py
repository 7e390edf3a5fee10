"""Files and folders that are being made: whole when they get their name, cleared after a kill.

They are made under names that start with `PREFIX`, in the folder where they will stay. Their owner
holds a lock (flock) on them, which the kernel lets go with the process, however that ends. So
whoever makes something in the same folder later finds what has no owner any more and removes it.
On file systems without locks nothing is removed. Needs the standard library only.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

PREFIX = ".kt-unfinished-"
_OWNER = "owner"
_CONTENT = "content"


def write(path: Path, text: str, *, private: bool = False) -> None:
    """A whole file, or the one that was there before; `private`: for its owner's eyes alone.

    Raises OSError, and leaves nothing then.
    """
    sweep(path.parent)
    handle, fresh = _owned_file(path.parent, 0o600 if private else 0o666)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        try:
            file.write(text)
            file.flush()
            fresh.replace(path)
        except BaseException:
            with suppress(OSError):
                fresh.unlink()
            raise


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder below `parent` that is gone afterwards. Raises OSError where none can be made."""
    sweep(parent)
    place, lock = _owned_folder(parent)
    try:
        content = place / _CONTENT
        content.mkdir()
        yield content
    finally:
        _clear(place)
        os.close(lock)


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """A folder that becomes `place` when the block ends well, instead of the one there before."""
    with scratch(place.parent) as room:
        fresh = room / "new"
        fresh.mkdir()
        yield fresh
        if place.exists():
            place.rename(room / "old")
        fresh.rename(place)


def link(place: Path, target: Path) -> None:
    """A symbolic link in place of what was there before."""
    with scratch(place.parent) as room:
        fresh = room / "link"
        fresh.symlink_to(target, target_is_directory=target.is_dir())
        fresh.replace(place)


def discard(place: Path) -> None:
    """Removes a folder: it loses its name at once, and then its files."""
    with scratch(place.parent) as room:
        place.rename(room / "old")


def sweep(parent: Path) -> int:
    """Removes what processes that have ended left in a folder; how many there were."""
    try:
        found = [entry.name for entry in os.scandir(parent) if entry.name.startswith(PREFIX)]
    except OSError:
        return 0
    return sum(_swept(parent / name) for name in found)


def _swept(path: Path) -> bool:
    if not path.is_dir():
        return _swept_file(path)
    try:
        lock = os.open(path / _OWNER, os.O_RDWR)
    except OSError:
        return _removed(path)
    try:
        return _lock(lock) == "mine" and _clear(path)
    finally:
        os.close(lock)


def _swept_file(path: Path) -> bool:
    with suppress(OSError):
        lock = os.open(path, os.O_RDWR)
        try:
            if _lock(lock) == "mine":
                path.unlink()
                return True
        finally:
            os.close(lock)
    return False


def _owned_file(parent: Path, mode: int) -> tuple[int, Path]:
    """Until it is locked another process may take it for an abandoned one; then it is made anew."""
    while True:
        fresh = _free_name(parent)
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if _lock(handle) != "taken" and os.fstat(handle).st_nlink:
            return handle, fresh
        os.close(handle)


def _owned_folder(parent: Path) -> tuple[Path, int]:
    while True:
        place = _free_name(parent)
        place.mkdir(mode=0o700)
        try:
            lock = os.open(place / _OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:  # taken for an abandoned one
            continue
        except OSError:
            _removed(place)
            raise
        if _lock(lock) != "taken" and os.fstat(lock).st_nlink:
            return place, lock
        os.close(lock)


def _free_name(parent: Path) -> Path:
    return parent / f"{PREFIX}{os.urandom(8).hex()}"


def _clear(place: Path) -> bool:
    """The owner's file goes last, so that a folder without one is empty or has just been made."""
    import shutil  # 10 ms that whoever only looks can do without

    for entry in _entries(place):
        if entry.name != _OWNER:
            shutil.rmtree(entry, ignore_errors=True)
    with suppress(OSError):
        (place / _OWNER).unlink()
    return _removed(place)


def _entries(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []


def _removed(place: Path) -> bool:
    try:
        place.rmdir()
    except OSError:
        return False
    return True


def _lock(handle: int) -> Literal["mine", "taken", "none"]:
    """`none`: the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "taken"
    except OSError:
        return "none"
    return "mine"
