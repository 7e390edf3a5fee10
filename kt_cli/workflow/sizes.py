"""Sizes of memory as people say them, with the unit they were given in."""

from __future__ import annotations

from kt_cli.core.units import GB, Size, gb
from kt_cli.opts import parse_bytes, size_parts

BARE_GB = 100_000
"""Below it, a number without a unit cannot be bytes of memory: it is read as GB."""


def parse_memory(text: str) -> Size:
    """As `parse_bytes`, but a small bare number means GB; the result tells the unit it was in."""
    number, prefix, binary, unit = size_parts(text)
    if not prefix and not unit and number < BARE_GB:
        return Size(int(number * GB), f"{number:g} GB (a bare {text.strip()} is read as GB)")
    size = parse_bytes(text)
    if not prefix:
        return Size(size)
    decimal = bool(unit) and not binary
    written = f"{number:g} {prefix.upper()}{'B' if decimal else 'iB'}"
    return Size(size, written if decimal else f"{written} ({gb(size)})")
