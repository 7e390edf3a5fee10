"""An object of a structured file, read by keys that are named when they are wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kt_cli.documents.source import Source, shown
from kt_cli.errors import KtError

MAX_INTEGER = 1 << 48
"""Where nothing narrower is known: larger than any count of parameters or bytes."""


@dataclass(frozen=True, slots=True)
class Record:
    """`prefix` is the path of this object within its file, such as `text_config.`.

    A getter takes the first of its keys that is neither missing nor null. Without a default, that
    none is there is an error, as is a value of another type or out of range.
    """

    source: Source
    values: Mapping[str, Any]
    prefix: str = ""

    def has(self, *keys: str) -> bool:
        return self.raw(*keys) is not None

    def raw(self, *keys: str) -> Any:
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def integer(
        self, *keys: str, low: int = 0, high: int = MAX_INTEGER, default: int | None = None
    ) -> int:
        found = self.raw(*keys)
        if found is None and default is not None:
            return default
        if not is_integer(found, low, high):
            raise self.wrong(keys[0], found, f"a whole number {_between(low, high)}")
        return int(found)

    def real(
        self,
        *keys: str,
        low: float = -math.inf,
        high: float = math.inf,
        default: float | None = None,
    ) -> float:
        found = self.raw(*keys)
        if found is None and default is not None:
            return default
        if type(found) not in (int, float) or not math.isfinite(found) or not low <= found <= high:
            raise self.wrong(keys[0], found, f"a number {_between(low, high)}")
        return float(found)

    def text(self, *keys: str, default: str | None = None) -> str:
        found = self.raw(*keys)
        if found is None and default is not None:
            return default
        if not isinstance(found, str):
            raise self.wrong(keys[0], found, "a text")
        return found

    def flag(self, *keys: str, default: bool | None = None) -> bool:
        found = self.raw(*keys)
        if found is None and default is not None:
            return default
        if not isinstance(found, bool):
            raise self.wrong(keys[0], found, "true or false")
        return found

    def sequence(self, *keys: str, least: int = 0, most: int = MAX_INTEGER) -> Sequence[Any]:
        """Empty when it is not there; a list of `least` to `most` items when it is."""
        found = self.raw(*keys)
        if found is None:
            return ()
        if not isinstance(found, (list, tuple)) or not least <= len(found) <= most:
            many = f" of at least {least} items" if least else ""
            raise self.wrong(keys[0], found, f"a list{many}")
        return found

    def integers(
        self, *keys: str, low: int = 0, high: int = MAX_INTEGER, least: int = 0
    ) -> tuple[int, ...]:
        """Empty when it is not there."""
        found = self.sequence(*keys, least=least)
        if not all(is_integer(item, low, high) for item in found):
            raise self.wrong(keys[0], found, f"a list of whole numbers {_between(low, high)}")
        return tuple(found)

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Empty when it is not there."""
        found = self.sequence(*keys)
        if not all(isinstance(item, str) for item in found):
            raise self.wrong(keys[0], found, "a list of texts")
        return tuple(found)

    def part(self, *keys: str) -> Record:
        """An object within this one; an empty one when it is not there."""
        found = self.raw(*keys)
        if found is None:
            return Record(self.source, {}, f"{self.prefix}{keys[0]}.")
        if not isinstance(found, Mapping):
            raise self.wrong(keys[0], found, "an object")
        key = next(key for key in keys if self.values.get(key) is not None)
        return Record(self.source, found, f"{self.prefix}{key}.")

    def parts(self, key: str) -> Mapping[str, Record]:
        """The objects in an object, by name."""
        outer = self.part(key)
        return {name: outer.part(name) for name in outer.values}

    def wrong(self, key: str, found: Any, wanted: str) -> KtError:
        state = "is missing" if found is None else f"is {shown(found)}"
        return self.source.wrong(f"`{self.prefix}{key}` {state}, {wanted} is needed")


def is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _between(low: float, high: float) -> str:
    if high >= MAX_INTEGER:
        return "" if low == -math.inf else f"from {low} on"
    return f"from {low} to {high}"
