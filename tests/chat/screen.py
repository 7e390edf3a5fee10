"""A terminal: what a person sees of an output with control sequences, scrolled-off lines too."""

from __future__ import annotations

import re

from rich.cells import cell_len

_TOKEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.|\r|\n|[^\x1b]", re.DOTALL)
_CSI = re.compile(r"\x1b\[([0-9]*)([A-Za-z])")


class Screen:
    def __init__(self, width: int = 80, height: int = 1_000_000) -> None:
        self._width = width
        self._height = height
        self._rows: list[dict[int, str]] = [{}]
        self._row = self._column = 0

    @property
    def text(self) -> str:
        return "\n".join(_line(cells) for cells in self._rows)

    def feed(self, output: str) -> Screen:
        for token in _TOKEN.findall(output):
            if token == "\n":
                self._column = 0
                self._down()
            elif token == "\r":
                self._column = 0
            elif token.startswith("\x1b"):
                self._control(token)
            else:
                self._put(token)
        return self

    def _put(self, char: str) -> None:
        size = cell_len(char)
        if self._column + size > self._width:
            self._column = 0
            self._down()
        self._rows[self._row][self._column] = char
        self._column += size

    def _down(self) -> None:
        self._row += 1
        self._rows += [{} for _ in range(self._row + 1 - len(self._rows))]

    def _control(self, token: str) -> None:
        match = _CSI.fullmatch(token)
        if not match:
            return
        count, kind = int(match[1] or 0), match[2]
        if kind == "A":
            top = max(0, len(self._rows) - self._height)
            self._row = max(top, self._row - max(1, count))
        elif kind == "B":
            self._row = min(len(self._rows) - 1, self._row + max(1, count))
        elif kind == "C":
            self._column += max(1, count)
        elif kind == "D":
            self._column = max(0, self._column - max(1, count))
        elif kind == "K":
            keep = range(0 if count == 2 else self._column)
            self._rows[self._row] = {c: t for c, t in self._rows[self._row].items() if c in keep}
        elif kind == "J":
            cells = self._rows[self._row].items()
            self._rows[self._row] = {c: t for c, t in cells if c < self._column}
            del self._rows[self._row + 1 :]


def _line(cells: dict[int, str]) -> str:
    text, column = "", 0
    for position in sorted(cells):
        text += " " * (position - column) + cells[position]
        column = position + cell_len(cells[position])
    return text.rstrip()
