"""Colours code line by line while it is written."""

from __future__ import annotations

from rich.syntax import Syntax
from rich.text import Text

from kt_cli.chat.markdown import CODE_THEME

MAX_CONTEXT = 200
"""Lines before a line that tell its colours, for a string or comment that spans several."""


class Highlighter:
    def __init__(self, language: str) -> None:
        words = language.replace("{", " ").split()
        self._syntax = Syntax("", words[0].lower() if words else "text", theme=CODE_THEME)
        self._lines: list[str] = []

    def line(self, text: str) -> Text:
        self._lines = [*self._lines[-MAX_CONTEXT:], text]
        coloured = self._syntax.highlight("\n".join(self._lines)).split("\n", allow_blank=True)
        last = len(self._lines) - 1
        if last < len(coloured) and coloured[last].plain == text:
            return coloured[last]
        return Text(text)
