"""One file for each command: it has `cli`, a command function or a Typer, and a line
`SUMMARY = "..."`, which `kt --help` reads without importing the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_SUMMARY = re.compile(r'^SUMMARY = "(.+)"$', re.MULTILINE)
_ORDER = (
    *("run", "chat", "plan", "fit", "profile", "ps", "logs", "stop", "top", "model", "engine"),
    *("doctor", "microbench", "config", "version", "completion"),
)
"""As `kt --help` lists them; others follow by name."""


def summaries() -> dict[str, str]:
    """Name of each command → its line of help."""
    found = dict(_found())
    known = [name for name in _ORDER if name in found]
    return {name: found[name] for name in (*known, *sorted(found.keys() - set(known)))}


def _found() -> Iterator[tuple[str, str]]:
    for file in (file for folder in __path__ for file in Path(folder).glob("*.py")):
        summary = _SUMMARY.search(file.read_text(encoding="utf-8"))
        if summary:
            yield file.stem, summary[1]
