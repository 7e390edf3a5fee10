"""Breaks streamed text between words where the terminal would break it inside one."""

from __future__ import annotations

import re
from collections.abc import Callable

from rich.cells import cell_len

_ANYWHERE = (
    "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6"
)
_PIECE = re.compile(rf"[\n\t]|[^\S\n\t]+|[^\s{_ANYWHERE}]+|\S")
"""A line end, a tab, spaces, a word, or one character of a script that breaks anywhere."""
TAB = 8
_FENCES = ("```", "~~~")
_INDENT = ("    ", "\t")


class Wrapper:
    """Holds a word back until it is whole. Code stays as it is, so that it is copied whole."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._held = ""
        self._line = ""
        self._column = 0
        self._code = False

    def feed(self, text: str) -> str:
        """What can be written now."""
        text = self._held + text
        whole = max(text.rfind(" "), text.rfind("\n"), text.rfind("\t")) + 1
        if len(text) - whole > self._width():
            whole = len(text)
        self._held = text[whole:]
        return "".join(map(self._piece, _PIECE.findall(text[:whole])))

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return "".join(map(self._piece, _PIECE.findall(rest)))

    def _piece(self, piece: str) -> str:
        if piece == "\n":
            self._end_line()
            return piece
        size = TAB - self._column % TAB if piece == "\t" else cell_len(piece)
        self._line += piece
        if self._column and self._column + size > self._width() and not self._in_code:
            return self._broken(piece, size)
        self._column = (self._column + size) % max(1, self._width()) or self._width()
        return piece

    def _broken(self, piece: str, size: int) -> str:
        """On a new line; spaces at the break go."""
        self._column = 0 if piece.isspace() else size
        return "\n" + piece.strip()

    @property
    def _in_code(self) -> bool:
        return self._code or self._fence or self._line.startswith(_INDENT)

    @property
    def _fence(self) -> bool:
        return self._line.lstrip(" ").startswith(_FENCES)

    def _end_line(self) -> None:
        if self._fence:
            self._code = not self._code
        self._line, self._column = "", 0
