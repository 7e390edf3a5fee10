"""Sampling parameters a person can set; what is None is left to the server."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from kt_cli.errors import UsageError

DEFAULT_WORDS = ("default", "none", "-")


@dataclass(frozen=True, slots=True)
class Params:
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in self.all().items() if value is not None}

    def all(self) -> dict[str, float | int | None]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def change(self, name: str, text: str) -> Params:
        """Raises UsageError for an unknown name or a value out of its range."""
        key = name.replace("-", "_").lower()
        if key not in LIMITS:
            raise UsageError(f"no parameter is called {name!r}", "", f"known: {', '.join(LIMITS)}")
        value = None if text.lower() in DEFAULT_WORDS else _read(key, text)
        changes: dict[str, Any] = {key: value}
        return replace(self, **changes)

    def over(self, other: Params) -> Params:
        """These parameters, and those of `other` where nothing is given here."""
        changes: dict[str, Any] = {**other.given(), **self.given()}
        return Params(**changes)


LIMITS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, 0, 2**31 - 1),
    "min_p": (float, 0, 1),
    "max_tokens": (int, 1, 2**31 - 1),
    "seed": (int, 0, 2**63 - 1),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "repetition_penalty": (float, 0.01, 100),
}


def _read(name: str, text: str) -> float | int:
    kind, low, high = LIMITS[name]
    noun = "a whole number" if kind is int else "a number"
    try:
        value: float | int = kind(text)
    except ValueError:
        raise UsageError(f"{name} must be {noun}, not {text!r}") from None
    if not low <= value <= high:
        raise UsageError(f"{name} must be from {low:g} to {high:g}, not {text}")
    return value
