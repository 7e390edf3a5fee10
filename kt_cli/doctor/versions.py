"""Versions compared by their leading numbers; local parts (+cu128) and suffixes do not count."""

from __future__ import annotations

import re


def release(version: str) -> tuple[int, ...]:
    """2.9.1+cu128 → (2, 9, 1), empty when there is no number."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def same(wanted: str, have: str) -> bool:
    """As `==` in a requirement: the local part of what is installed does not count."""
    return wanted == have or wanted == have.partition("+")[0]


def within(version: str, low: tuple[int, ...], below: tuple[int, ...]) -> bool:
    return low <= release(version) < below
