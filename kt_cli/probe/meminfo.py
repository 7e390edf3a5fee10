"""The format of /proc/meminfo and of a node's meminfo."""

from __future__ import annotations

import re

KIB = 1024
_LINE = re.compile(r"^(?:Node \d+ )?([\w()]+):\s+([0-9]{1,15})( kB)?", re.MULTILINE)


def meminfo(text: str) -> dict[str, int]:
    """Field → bytes (or a plain count where the kernel gives no unit)."""
    return {name: int(value) * (KIB if unit else 1) for name, value, unit in _LINE.findall(text)}
