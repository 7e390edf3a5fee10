"""The folder of packed experts: one pack a checkpoint, a file a layer, the least used go first.

    FOLDER/<model>-<key>/pack.json            what was packed, and by which versions
                         <module>.<format>.ktmoe
                         lock                 held by every process that uses the pack
                         writing              held by the one that writes into it

A pack is only ever taken for a checkpoint of the same identity: names, sizes, times and last pages
of its files. Anything else in the folder is disk space that can be had back.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kt_cli.core.packing import SPARE
from kt_cli.core.units import gb
from kt_cli.documents import read_json
from kt_cli.errors import KtError

ENDING = ".ktmoe"
PART = ".part"
_ABOUT = "pack.json"
_LOCK, _WRITING = "lock", "writing"
_PAGE = 4096
_WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True, slots=True)
class Pack:
    """`used` is when it last served a start, seconds since 1970."""

    folder: Path
    checkpoint: str
    identity: str
    made_by: str
    files: Mapping[str, int]
    used: float

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def layers(self, format: str) -> tuple[int, int]:
        """(number, bytes) of the layers that are packed in a format, such as int4."""
        sizes = [n for name, n in self.files.items() if name.endswith(f".{format}{ENDING}")]
        return len(sizes), sum(sizes)


def folder_of(home: Path) -> Path:
    return home / "cache" / "packs"


def identity(checkpoint: Path) -> str:
    """Changes with any file of weights and the configuration; raises OSError.

    Reads one page of each file, so it takes milliseconds whatever the size.
    """
    state = hashlib.blake2b(digest_size=16)
    for path in _files_of(checkpoint):
        facts = path.stat()
        with path.open("rb") as file:
            file.seek(max(0, facts.st_size - _PAGE))
            state.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns} ".encode())
            state.update(file.read(_PAGE))
    return state.hexdigest()


def _files_of(checkpoint: Path) -> list[Path]:
    if checkpoint.is_file():
        return [checkpoint]
    names = (p for p in checkpoint.iterdir() if p.suffix in _WEIGHTS or p.name == "config.json")
    return sorted(names)


@dataclass(frozen=True, slots=True)
class Shelf:
    """All packs; `limit` bytes for them together, None for all but the disk's last `spare`."""

    folder: Path
    limit: int | None = None
    spare: int = SPARE

    def packs(self) -> tuple[Pack, ...]:
        """The least recently used first; what cannot be read is left out."""
        try:
            found = [pack for path in self.folder.iterdir() if (pack := _read(path)) is not None]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(found, key=lambda pack: pack.used))

    def of(self, checkpoint: Path) -> tuple[Pack, ...]:
        """Those of a checkpoint, whatever became of its files since."""
        place = str(checkpoint.resolve())
        return tuple(pack for pack in self.packs() if pack.checkpoint == place)

    def fitting(self, checkpoint: Path) -> Pack | None:
        """The newest pack of the checkpoint as it is now."""
        try:
            wanted = identity(checkpoint)
        except OSError:
            return None
        return next((p for p in reversed(self.of(checkpoint)) if p.identity == wanted), None)

    def open(self, checkpoint: Path, made_by: str) -> Held:
        """The checkpoint's pack, made where there is none. Others of it go: those of files that
        have changed since, and of other versions.

        Raises OSError, such as for a disk that is read-only.
        """
        now, place = identity(checkpoint), checkpoint.resolve()
        for old in self.of(checkpoint):
            if (old.identity, old.made_by) != (now, made_by):
                remove(old)
        key = hashlib.blake2b(f"{place} {now} {made_by}".encode(), digest_size=8).hexdigest()
        folder = self.folder / f"{_plain(place.name)}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"checkpoint": str(place), "identity": now, "made_by": made_by}
        _write(folder / _ABOUT, json.dumps(about, indent=2))
        return Held(folder)

    def make_room(self, need: int, keep: Path) -> str:
        """Removes others until `need` more bytes fit; why they cannot, and then nothing is removed.

        `keep` and packs in use stay.
        """
        known = self.packs()
        spared = [p for p in known if p.folder != keep and not in_use(p.folder)]
        wanted, why = self._too_much(need, known)
        if wanted > sum(pack.bytes for pack in spared):
            return why
        for pack in spared:
            if wanted <= 0:
                break
            wanted -= pack.bytes
            remove(pack)
        return ""

    def _too_much(self, need: int, known: tuple[Pack, ...]) -> tuple[int, str]:
        """Bytes that must go before `need` more fit, and why they do not."""
        free = shutil.disk_usage(self.folder).free
        over = need + self.spare - free
        why = f"{gb(need)} are needed beside {gb(self.spare)} to spare, {gb(free)} of disk are free"
        if self.limit is None:
            return over, why
        above = sum(pack.bytes for pack in known) + need - self.limit
        limited = f"{gb(need)} more would exceed the {gb(self.limit)} that packs may take"
        return (above, limited) if above > over else (over, why)


class Held:
    """A pack in use: as long as this lives it is not removed to make room."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._writing: int | None = None

    def file(self, module: str, format: str) -> Path:
        return self.folder / f"{module}.{format}{ENDING}"

    def may_write(self) -> bool:
        """Whether no other process does; what one that was killed left is removed."""
        if self._writing is None:
            self._writing = _try_lock(self.folder / _WRITING)
            if self._writing is not None:
                self._sweep()
        return self._writing is not None

    def close(self) -> None:
        """What is half written goes."""
        if self._writing is not None:
            self._sweep()
            os.close(self._writing)
        os.close(self._lock)

    def _sweep(self) -> None:
        for path in self.folder.glob(f"*{ENDING}.*{PART}"):
            path.unlink(missing_ok=True)


def in_use(folder: Path) -> bool:
    held = _try_lock(folder / _LOCK)
    if held is None:
        return True
    os.close(held)
    return False


def remove(pack: Pack) -> None:
    """A process that has it mapped keeps what it has; the space is free when it ends."""
    shutil.rmtree(pack.folder, ignore_errors=True)


def _try_lock(path: Path) -> int | None:
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


def _read(folder: Path) -> Pack | None:
    try:
        about = read_json(folder / _ABOUT)
        place, now, made_by = (about.text(name) for name in ("checkpoint", "identity", "made_by"))
        used = (folder / _ABOUT).stat().st_mtime
        return Pack(folder, place, now, made_by, dict(_sizes(folder)), used)
    except (OSError, KtError):
        return None


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in folder.iterdir():
        if path.name.endswith((ENDING, PART)):
            yield path.name, path.stat().st_size


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:48].strip("-.") or "model"
