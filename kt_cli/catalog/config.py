"""`config.json` as written by many hands, read by keys that are named when they are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kt_cli.errors import KtError

TEXT_KEYS = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True, slots=True)
class Config:
    """The language model's part of a configuration; `outer` is all of it."""

    where: str
    values: Mapping[str, Any]
    outer: Mapping[str, Any]

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Config:
        inner = next((values[key] for key in TEXT_KEYS if values.get(key)), values)
        if not isinstance(inner, Mapping):
            raise KtError(f"cannot read {where}", "its text configuration is no object")
        return cls(where, inner, values)

    @property
    def model_type(self) -> str:
        return str(self.values.get("model_type") or self.outer.get("model_type") or "")

    @property
    def architecture(self) -> str:
        names = self.outer.get("architectures") or self.values.get("architectures") or [""]
        return str(names[0])

    def has(self, *keys: str) -> bool:
        return any(self.values.get(key) is not None for key in keys)

    def number(self, *keys: str, default: int | None = None) -> int:
        """The first of `keys` that is there. Raises KtError that names the key."""
        found = self._first(keys)
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise self._wrong(keys[0], found, "a whole number")
        return found

    def flag(self, key: str, default: bool = False) -> bool:
        """A key that `text_config` lacks may stand beside it."""
        found = self.values.get(key, self.outer.get(key))
        return default if found is None else bool(found)

    def text(self, *keys: str, default: str = "") -> str:
        return str(self._first(keys) or default)

    def items(self, key: str, length: int = 0) -> Sequence[Any]:
        """Empty when it is not there; at least `length` items when it is."""
        found = self.values.get(key) or []
        if not isinstance(found, list) or (found and len(found) < length):
            raise self._wrong(key, found, f"a list with an item for each of {length} layers")
        return found

    def part(self, key: str) -> Mapping[str, Any]:
        """An object, from here or from the whole configuration; empty when it is not there."""
        found = self.values.get(key) or self.outer.get(key) or {}
        if not isinstance(found, Mapping):
            raise self._wrong(key, found, "an object")
        return found

    def _first(self, keys: Sequence[str]) -> Any:
        return next((self.values[k] for k in keys if self.values.get(k) is not None), None)

    def _wrong(self, key: str, found: Any, wanted: str) -> KtError:
        state = "is missing" if found is None else f"is {found!r}"
        return KtError(
            f"cannot read {self.where}",
            f"`{key}` {state}, {wanted} is needed",
            "check that this is the configuration of the model",
        )
