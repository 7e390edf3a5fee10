"""Answers of drivers, tools and files, each of which may be missing or garbage: unknown then.

Unknown is None for a number, the empty text, the empty mapping; it travels on to the `Machine`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

MOST = 1 << 64
"""No size, count or address that a machine has is larger; garbage may be."""


def number(value: object, least: int = 0) -> int | None:
    """An integer, or the text of one in decimal or 0x…; None for everything else."""
    if isinstance(value, (bytes, str)):
        value = _parsed(text(value))
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if least <= value < MOST else None


def text(value: object) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value.strip().strip("\0") if isinstance(value, str) else ""


def pair(value: object) -> tuple[int, int] | None:
    """Two numbers, such as a compute capability."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return None
    first, second = number(value[0]), number(value[1])
    return None if first is None or second is None else (first, second)


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def listing(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def parsed_json(written: str) -> Any:
    """None for what is no JSON, however deep it is nested."""
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        return None


def _parsed(written: str) -> int | None:
    try:
        return int(written, 0) if written.startswith(("0x", "0X", "-0x")) else int(written)
    except ValueError:
        return None
