"""An engine's output on disk: bounded, rotated once, read by `kt logs`."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from kt_cli.runtime.losses import Losses

LIMIT = 16 * 1024 * 1024
"""Bytes of one file; there are two at most."""


class BoundedLog:
    """Keeps the newest output: a full file becomes the older one, which replaces its forerunner.

    What the disk refuses is dropped and counted, and the log says so where it was. Only making one
    raises OSError.
    """

    def __init__(self, path: Path, limit: int = LIMIT, losses: Losses | None = None) -> None:
        self._path = path
        self._limit = limit
        self._losses = losses or Losses()
        self._file = _create(path)
        self._size = 0
        self._missed = 0
        self._ragged = False
        """The last line that was written has no end."""

    def write(self, data: bytes) -> None:
        left = data
        try:
            if self._size + len(data) > self._limit:
                self._rotate()
            self._tell_missed()
            while left:
                left = left[self._append(left) :]
        except OSError as error:
            lines = max(1, left.count(b"\n"))
            self._missed += lines
            self._losses.refused(error, lines)

    def retry(self) -> bool:
        """True when nothing waits to be told."""
        try:
            self._tell_missed()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.retry()
        self._file.close()

    def _tell_missed(self) -> None:
        if self._missed:
            end, last = "\n" if self._ragged else "", self._losses.last
            why = f" ({last.why})" if last else ""
            note = f"{end}kt: lines lost here: {self._missed}{why}\n".encode()
            before = self._size, self._ragged
            if self._append(note) < len(note):
                self._size, self._ragged = before
                self._file.seek(self._size)
                self._file.truncate()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._missed = 0

    def _append(self, data: bytes) -> int:
        count = self._file.write(data) or 0
        self._size += count
        self._ragged = data[:count][-1:] != b"\n"
        return count

    def _rotate(self) -> None:
        """The old file stays open until there is a new one."""
        with suppress(FileNotFoundError):
            self._path.replace(older(self._path))
        fresh = _create(self._path)
        self._file.close()
        self._file, self._size, self._ragged = fresh, 0, False


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    older(path).unlink(missing_ok=True)


def tail(path: Path, count: int | None = None) -> Iterator[str]:
    """The last `count` lines over both files, or all of them."""
    yield from deque(_lines(path), maxlen=count)


class Follower:
    """Yields what is appended after its creation, across rotations."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = _open(path)
        self._rest = b""
        if self._file:
            self._file.seek(0, os.SEEK_END)

    def fresh(self) -> Iterator[str]:
        """Whole lines written since the last call."""
        yield from self._read()
        if self._rotated():
            self._close()
            self._file = _open(self._path)
            yield from self._read()

    def rest(self) -> str:
        """A last line that has no end yet."""
        return _text(self._rest)

    def _read(self) -> Iterator[str]:
        if self._file is None:
            self._file = _open(self._path)
        while self._file and (data := self._file.read(65536)):
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from map(_text, lines)

    def _rotated(self) -> bool:
        if self._file is None:
            return False
        try:
            return os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino
        except OSError:
            return False

    def _close(self) -> None:
        if self._file:
            self._file.close()


def _lines(path: Path) -> Iterator[str]:
    for part in (older(path), path):
        file = _open(part)
        if file:
            with file:
                yield from (_text(line) for line in file)


def _text(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="replace")


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError:
        return None


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", 0)
