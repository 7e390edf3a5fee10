"""Which devices a list such as CUDA_VISIBLE_DEVICES leaves, and in which order.

CUDA reads it from the left: an index or a unique prefix of a UUID picks a device, the first entry
that picks none hides the rest, a device named twice hides everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def select(value: str | None, uuids: Sequence[Iterable[str]]) -> list[int]:
    """Positions of the devices left; each device may answer to several UUIDs. None: all."""
    if value is None:
        return list(range(len(uuids)))
    picked: list[int] = []
    for entry in value.split(","):
        position = _position(entry.strip(), uuids)
        if position is None:
            break
        if position in picked:
            return []
        picked.append(position)
    return picked


def _position(entry: str, uuids: Sequence[Iterable[str]]) -> int | None:
    if entry.isascii() and entry.isdigit():
        return int(entry) if int(entry) < len(uuids) else None
    if not entry or entry[0] in "+-":
        return None
    matches = [i for i, names in enumerate(uuids) if any(n.startswith(entry) for n in names)]
    return matches[0] if len(matches) == 1 else None
