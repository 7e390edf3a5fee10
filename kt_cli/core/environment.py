"""What a managed environment says of itself, in the file `MARKER` at its top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kt_cli.core.serial import ShapeError, from_plain

MARKER = "kt-engine.json"
FOLDER = "engines"
"""Below KT_HOME: one folder an environment, named after its engine."""


@dataclass(frozen=True, slots=True)
class Installed:
    """`lock` is the digest of the lock it was built from; `python` the interpreter's version."""

    name: str
    lock: str
    python: str
    complete: bool = False
    date: str = ""
    bytes: int = 0
    """On disk, once it is complete."""


def read_marker(data: Any) -> Installed | None:
    """None for what is no marker."""
    try:
        return from_plain(Installed, data)
    except (ShapeError, TypeError, AttributeError):
        return None
