"""Sums of a model's files, kept beside them, so that no damaged part of one is ever used.

`.kt-sums.json` has the CRC-32 of every MiB of every file, as they were when the model was made or
its download was verified. Weights are checked piece by piece before their first use; a check of
whole files is `kt model verify`. Names of files that were found damaged go to `.kt-damaged`, so
that the next pull or start replaces them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kt_cli import unfinished
from kt_cli.documents import Record, Source, read_json
from kt_cli.errors import NotFoundError, TransferError

NAME = ".kt-sums.json"
DAMAGED = ".kt-damaged"
CHUNK = 1 << 20
_VERSION = 1
MAX_BYTES = 256_000_000
"""Eight digits a MiB of models of many terabytes."""
_HEX = 8
_WEIGHTS = (".safetensors", ".gguf")
_THREADS = 4


@dataclass(frozen=True, slots=True)
class FileSums:
    """`crc32` has eight hexadecimal digits for each MiB."""

    bytes: int
    mtime_ns: int
    crc32: str

    def of(self, chunk: int) -> str:
        return self.crc32[chunk * _HEX : (chunk + 1) * _HEX]


@dataclass(frozen=True, slots=True)
class Sums:
    """`remedy` says how a damaged file is replaced."""

    files: Mapping[str, FileSums]
    remedy: str


class Summing:
    """Sums of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._open, self._filled, self._total = 0, 0, 0

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            part = view[: CHUNK - self._filled]
            self._open = zlib.crc32(part, self._open)
            self._filled, self._total = self._filled + len(part), self._total + len(part)
            if self._filled == CHUNK:
                self._close()
            view = view[len(part) :]

    def result(self, path: Path) -> FileSums:
        """Of all that came; the time is that of the file it lies in now."""
        if self._filled:
            self._close()
        return FileSums(self._total, path.stat().st_mtime_ns, "".join(self._done))

    def _close(self) -> None:
        self._done.append(_hex(self._open))
        self._open = self._filled = 0


def of_file(path: Path) -> FileSums:
    from concurrent.futures import ThreadPoolExecutor  # 8 ms that most commands can do without

    size = path.stat().st_size

    def one(at: int) -> str:
        with path.open("rb", buffering=0) as file:
            file.seek(at)
            return _hex(zlib.crc32(file.read(CHUNK)))

    with ThreadPoolExecutor(_THREADS) as pool:
        return FileSums(
            size, path.stat().st_mtime_ns, "".join(pool.map(one, range(0, size, CHUNK)))
        )


def read(folder: Path) -> Sums | None:
    """None where no sums are kept. Raises TransferError for sums that are damaged themselves."""
    path = folder / NAME
    fix = "`kt model verify` writes them anew; the demo is made again when its folder is removed"
    try:
        data = read_json(path, Source(f"the checksums in {path}", fix), MAX_BYTES)
    except NotFoundError:
        return None
    if data.integer("version") != _VERSION:
        return None
    files = {name: _file(fields) for name, fields in data.parts("files").items()}
    return Sums(files, data.text("remedy"))


def write(folder: Path, sums: Sums) -> None:
    files = {
        name: {"bytes": f.bytes, "mtime_ns": f.mtime_ns, "crc32": f.crc32}
        for name, f in sorted(sums.files.items())
    }
    data = {"version": _VERSION, "remedy": sums.remedy, "files": files}
    unfinished.write(folder / NAME, json.dumps(data, indent=0))


def damaged(folder: Path) -> frozenset[str]:
    """Files that were found damaged and not replaced since."""
    try:
        return frozenset((folder / DAMAGED).read_text(encoding="utf-8").splitlines())
    except OSError:
        return frozenset()


def mended(folder: Path, names: Collection[str]) -> None:
    """Forgets what was known against these files."""
    known = damaged(folder)
    if known & {*names}:
        _note_damaged(folder, known - {*names})


def _note_damaged(folder: Path, names: frozenset[str]) -> None:
    unfinished.write(folder / DAMAGED, "".join(f"{n}\n" for n in sorted(names)))


class Guard:
    """Lets nobody use a part of a file whose sum is wrong; does nothing where no sums are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sums = read(folder)
        self._good: dict[str, set[int]] = {}

    def check(self, name: str, data: Any, start: int, end: int) -> None:
        """`data`: all bytes of the file, mapped; start and end: what is to be used of it."""
        if self._sums is None or name not in self._sums.files:
            return
        self._require_size(name, len(data))
        wanted = {*range(start // CHUNK, -(-end // CHUNK))}
        for chunk in sorted(wanted - self._good.get(name, set())):
            self._check(name, chunk, data[chunk * CHUNK : (chunk + 1) * CHUNK])

    def check_heads(self) -> None:
        """The first MiB of each file of weights, before anything is taken from it."""
        for name, _ in self._named(weights=True):
            path = self._folder / name
            if path.is_file():
                with path.open("rb") as file:
                    self._require_size(name, path.stat().st_size)
                    self._check(name, 0, file.read(CHUNK))

    def check_small(self) -> None:
        """Configuration and tokenizer; one that somebody has edited is his own."""
        for name, known in self._named(weights=False):
            path = self._folder / name
            if path.is_file() and path.stat().st_mtime_ns == known.mtime_ns:
                self.check(name, path.read_bytes(), 0, known.bytes)

    def wrong(self) -> tuple[str, ...]:
        """Files that differ from their sums, all of them read."""
        files = self._sums.files if self._sums else {}
        now = {name: _sums_of(self._folder / name) for name in files}
        return tuple(name for name, known in files.items() if now[name] != known.crc32)

    def _named(self, weights: bool) -> Iterator[tuple[str, FileSums]]:
        files = self._sums.files.items() if self._sums else ()
        return ((name, known) for name, known in files if name.endswith(_WEIGHTS) == weights)

    def _require_size(self, name: str, size: int) -> None:
        known = self._sums.files[name].bytes if self._sums else size
        if size != known:
            raise self._damage(name, f"it has {size} bytes instead of {known}")

    def _check(self, name: str, chunk: int, data: Any) -> None:
        known = self._sums.files[name].of(chunk) if self._sums else ""
        if _hex(zlib.crc32(data)) != known:
            raise self._damage(name, f"its sum at byte {chunk * CHUNK} is wrong")
        self._good.setdefault(name, set()).add(chunk)

    def _damage(self, name: str, why: str) -> TransferError:
        with suppress(OSError):
            _note_damaged(self._folder, damaged(self._folder) | {name})
        remedy = self._sums.remedy if self._sums else ""
        return TransferError(f"{self._folder / name} is damaged", why, remedy)


def _file(fields: Record) -> FileSums:
    found = FileSums(
        fields.integer("bytes"),
        fields.integer("mtime_ns", low=-(1 << 63), high=1 << 63),
        fields.text("crc32"),
    )
    if len(found.crc32) != _HEX * -(-found.bytes // CHUNK):
        raise fields.source.wrong("a file has more or fewer sums than MiB")
    return found


def _sums_of(path: Path) -> str:
    """Of the file as it is; nothing like a sum for one that cannot be read."""
    try:
        return of_file(path).crc32
    except OSError as error:
        return str(error)


def _hex(crc: int) -> str:
    return f"{crc:08x}"
