"""One file for each command: it has `cli`, a command function or a Typer, and a line
`SUMMARY = "..."`, which `kt --help` reads without importing the file."""

from __future__ import annotations

import re

from kt_cli.discovery import marked, ordered

_SUMMARY = re.compile(r'^SUMMARY = "(.+)"$', re.MULTILINE)
_ORDER = (
    *("run", "chat", "plan", "fit", "profile", "ps", "logs", "stop", "top", "model", "engine"),
    *("doctor", "microbench", "config", "version", "completion"),
)
"""As `kt --help` lists them; others follow by name."""


def summaries() -> dict[str, str]:
    """Name of each command → its line of help."""
    found = marked("kt_cli.commands", _SUMMARY)
    return {name: found[name] for name in ordered(found, _ORDER)}
