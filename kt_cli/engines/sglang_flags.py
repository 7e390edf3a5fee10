"""SGLang's own flags, which may follow those of kt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kt_cli.engines.serving import close_flag
from kt_cli.errors import UsageError


def require_known(extra: Sequence[str], python: str) -> None:
    """Raises UsageError for a word before any flag, and for flags its source does not have."""
    if extra and not extra[0].startswith("-"):
        raise UsageError(f"{extra[0]} is one argument too many", "", "see `kt run --help`")
    known = _flags_of(python)
    strange = [
        w for w in extra if w.startswith("--") and known and w.partition("=")[0] not in known
    ]
    if strange:
        raise UsageError(
            f"no such option: {strange[0]}",
            "neither kt nor SGLang knows it",
            close_flag(strange[0]),
        )


def _flags_of(python: str) -> frozenset[str]:
    """Read from SGLang's source, for its parser takes many seconds to load; empty if not found."""
    packages = Path(python).parent.parent.glob("lib/python3*/site-packages/sglang/srt")
    for folder in packages:
        files = [folder / "server_args.py", *folder.glob("arg_groups/**/*.py")]
        texts = (f.read_text(encoding="utf-8") for f in files if f.is_file())
        return frozenset(flag for text in texts for flag in _FLAG.findall(text))
    return frozenset()


_FLAG = re.compile(r'"(--[a-z][a-z0-9-]*)"')
