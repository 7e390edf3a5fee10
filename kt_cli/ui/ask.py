"""Questions on a terminal, one line each: the default in brackets, Enter takes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from kt_cli.ui.out import Out
from kt_cli.ui.plan import style


class LineAsker:
    """Reads answers from a terminal. Raises EOFError at the end of input."""

    def __init__(self, out: Out, stdin: TextIO | None = None) -> None:
        self._out = out
        self._stdin = stdin or sys.stdin

    def ask(self, question: str, default: str, why: str, check: Callable[[str], Any]) -> Any:
        """The checked answer, None for the default; asks again until it is allowed."""
        look = style()
        self._out.note("")
        if why:
            self._out.note(look.text(f"  {why}"))
        while True:
            text = self._line(f"{question} [{default}] " if default else f"{question} ")
            if not text:
                return None
            try:
                return check(text)
            except ValueError as error:
                self._out.note(f"  {error}")

    def choose(self, question: str, choices: Sequence[str], default: str) -> str:
        """A name from a numbered list, by number or name; other names pass too."""
        for number, choice in enumerate(choices, 1):
            self._out.note(f"  {number:>2}  {choice}")
        text = self._line(f"{question} [{default}] ") or default
        if text.isdigit() and 1 <= int(text) <= len(choices):
            return choices[int(text) - 1].split()[0]
        return text

    def _line(self, prompt: str) -> str:
        self._out.prompt(prompt)
        line = self._stdin.readline()
        if not line:
            raise EOFError
        return line.strip()
