"""An engine's output on disk: bounded, rotated once, read by `kt logs`."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LIMIT = 16 * 1024 * 1024
"""Bytes of one file; there are two at most."""


class BoundedLog:
    """Keeps the newest output: a full file becomes the older one, which replaces its forerunner."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self._path = path
        self._limit = limit
        self._file = _create(path)
        self._size = 0

    def write(self, data: bytes) -> None:
        if self._size + len(data) > self._limit:
            self._rotate()
        self._file.write(data)
        self._size += len(data)

    def close(self) -> None:
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(older(self._path))
        self._file = _create(self._path)
        self._size = 0


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
        except FileNotFoundError:
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
    except FileNotFoundError:
        return None


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", 0)
