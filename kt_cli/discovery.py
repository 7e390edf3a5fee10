"""Files of a package that a line marks: one file for each command, and one for each engine."""

from __future__ import annotations

import importlib
import re
from pathlib import Path


def marked(package: str, line: re.Pattern[str]) -> dict[str, str]:
    """Name of each file in which `line` matches → the pattern's group; no file is imported."""
    folders = importlib.import_module(package).__path__
    files = sorted(file for folder in folders for file in Path(folder).glob("*.py"))
    matches = {file.stem: line.search(file.read_text(encoding="utf-8")) for file in files}
    return {name: match[1] for name, match in matches.items() if match}


def ordered(names: dict[str, str], first: tuple[str, ...]) -> list[str]:
    """Those of `first` in their order, then the others by name."""
    return [*(n for n in first if n in names), *sorted(names.keys() - set(first))]


_ENGINE = re.compile(r"^(ENGINE) = ", re.MULTILINE)
_PREFERRED = ("sglang", "embedded")
"""An engine serves where no obstacle is in its way and in that of none before it."""


def engine_names() -> tuple[str, ...]:
    """Of each file in `kt_cli/engines` that has an `ENGINE`, in order of preference."""
    return tuple(ordered(marked("kt_cli.engines", _ENGINE), _PREFERRED))
