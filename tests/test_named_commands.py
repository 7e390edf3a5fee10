"""Advice names only commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import kt_cli
from kt_cli.commands import summaries

ROOT = Path(kt_cli.__file__).parent
FILES = [*ROOT.rglob("*.py"), *(ROOT.parent / "presets").rglob("*.yaml")]
NAMED = re.compile(r"[`\"]kt ([a-z]+)[ `\"]")
PROSE = {"plans", "serves"}


def test_every_command_that_is_named_exists() -> None:
    known = PROSE | set(summaries())
    unknown = {
        path.name: strange
        for path in FILES
        if (strange := set(NAMED.findall(path.read_text(encoding="utf-8"))) - known)
    }
    assert unknown == {}
