"""Writes docs/reference/cli.md from the commands' own help, or checks that it is current.

usage: python scripts/cli_reference.py [--check]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kt_cli.commands import summaries

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
INTRO = """# Command-line reference

Generated from `--help` by `scripts/cli_reference.py`; change the options, not this page.
"""


def help_of(*command: str) -> str:
    code = "import sys; from kt_cli.app import run; sys.exit(run(sys.argv[1:]))"
    environment = {**os.environ, "COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1"}
    argv = [sys.executable, "-c", code, *command, "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.rstrip()


def subcommands(text: str) -> list[str]:
    _, _, tail = text.partition("\nCommands:\n")
    return [
        line.split()[0] for line in tail.splitlines() if line.startswith("  ") and line[2] != " "
    ]


def section(*command: str) -> str:
    text = help_of(*command)
    title = f"## `kt {' '.join(command)}`" if command else "## `kt`"
    parts = [f"{title}\n\n```text\n{text}\n```\n"]
    if command:
        parts += [section(*command, name) for name in subcommands(text)]
    return "\n".join(parts)


def page() -> str:
    return "\n".join([INTRO, section(), *(section(name) for name in summaries())])


def main() -> int:
    text = page()
    if "--check" in sys.argv:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current != text:
            print(f"{PAGE.name} is out of date: run python scripts/cli_reference.py")
        return int(current != text)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
