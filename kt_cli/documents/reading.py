"""Files → bytes and records. Nothing here waits for a pipe, or reads a device or a huge file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from kt_cli.documents.formats import parse_json, parse_toml, parse_yaml
from kt_cli.documents.record import Record
from kt_cli.documents.source import Source
from kt_cli.errors import AuthError, NotFoundError

MAX_BYTES = 16_000_000
"""Configurations have kilobytes; lists of exceptions to a quantisation may have megabytes."""


def read_json(path: Path, source: Source | None = None, limit: int = MAX_BYTES) -> Record:
    """A JSON object; raises NotFoundError, AuthError or what `source` names."""
    named = source or Source(str(path))
    return parse_json(read_bytes(path, named, limit), named)


def read_toml(path: Path, source: Source | None = None, limit: int = MAX_BYTES) -> Record:
    named = source or Source(str(path))
    return parse_toml(read_bytes(path, named, limit), named)


def read_yaml(path: Path, source: Source | None = None, limit: int = MAX_BYTES) -> Any:
    named = source or Source(str(path))
    return parse_yaml(read_bytes(path, named, limit), named)


def read_bytes(path: Path, source: Source | None = None, limit: int = MAX_BYTES) -> bytes:
    """All of a regular file of at most `limit` bytes."""
    source = source or Source(str(path))
    with open_regular(path, source) as file:
        content = file.read(limit + 1)  # the size may not be known yet, or grow
    if len(content) > limit:
        why = f"it has more than {limit} bytes, the most that such a file may have"
        raise source.wrong(why)
    return content


@contextmanager
def open_regular(path: Path, source: Source) -> Iterator[BinaryIO]:
    """A regular file, open for reading; what goes wrong with it meanwhile is explained too."""
    try:
        with os.fdopen(_open(path, source), "rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"no {path.name} in {path.parent}", "", "check the path") from error
    except PermissionError as error:
        fix = "allow this user to read it"
        raise AuthError(f"cannot read {source.name}", "permission denied", fix) from error
    except OSError as error:
        raise source.wrong(error.strerror or str(error)) from error


def _open(path: Path, source: Source) -> int:
    if "\0" in str(path):
        raise source.wrong("its name has a character of code 0")
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return number
    os.close(number)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise source.wrong(f"it is {kind}, not a file")
