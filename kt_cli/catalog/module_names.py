"""Modules that a quantisation names: in full, in part, with `*`, or by a regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, TypeVar

from kt_cli.documents import Source, shown

T = TypeVar("T")
REGULAR = "re:"
MOST_REPEATS = 5
_REPEATED_GROUP = re.compile(r"\)[*+{]")
_REPEAT = re.compile(r"(?<!\\)[*+]|\{\d+,\d*\}")


class ModuleNames(Generic[T]):
    """What is said of each name. Matching takes time that does not depend on how many are plain.

    Raises what `source` raises for an expression that is none, or that could take for ever.
    """

    def __init__(self, said: Iterable[tuple[str, T]], source: Source) -> None:
        self._plain: dict[str, T] = {}
        self._patterns: list[tuple[re.Pattern[str], T]] = []
        for name, value in said:
            if name.startswith(REGULAR) or "*" in name:
                self._patterns.append((_compiled(name, source), value))
            else:
                self._plain.setdefault(name.strip("."), value)

    def __bool__(self) -> bool:
        return bool(self._plain or self._patterns)

    def find(self, module: str) -> T | None:
        """Of the first name that fits: the plain ones go before patterns."""
        pieces = module.split(".")
        for start in range(len(pieces)):
            for end in range(len(pieces), start, -1):
                named = ".".join(pieces[start:end])
                if named in self._plain:
                    return self._plain[named]
        return next((value for pattern, value in self._patterns if pattern.search(module)), None)


def _compiled(name: str, source: Source) -> re.Pattern[str]:
    """A regular expression holds from the start of a name, `*` anywhere between dots."""
    if name.startswith(REGULAR):
        text = rf"\A(?:{name.removeprefix(REGULAR)})"
    else:
        text = rf"(?:\A|\.){re.escape(name)}(?:\Z|\.)".replace(r"\*", ".*")
    if _REPEATED_GROUP.search(text) or len(_REPEAT.findall(text)) > MOST_REPEATS:
        raise source.wrong(f"the pattern {shown(name)} could take for ever to match")
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise source.wrong(f"{shown(name)} is no regular expression: {error}") from error
