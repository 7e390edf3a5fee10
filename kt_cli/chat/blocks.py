"""Cuts streamed Markdown into blocks that are finished and can be printed for good.

A paragraph, list, quote or table is finished by the blank line after it; code is handed out line by
line. What is not finished stays in `tail`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*\Z)|~{3,})[ \t]*(.*)\Z")
_INNER_FENCE = re.compile(r"^\s*(?:[-*+]|\d+[.)])?\s*(`{3,}|~{3,})")
_ITEM = re.compile(r"^ {0,3}(?:[-*+]|\d{1,9}[.)])(?:\s|\Z)")


@dataclass(frozen=True, slots=True)
class Block:
    """Markdown that no later text can change."""

    text: str


@dataclass(frozen=True, slots=True)
class CodeStart:
    fence: str
    language: str


@dataclass(frozen=True, slots=True)
class CodeLine:
    text: str


@dataclass(frozen=True, slots=True)
class CodeEnd:
    fence: str
    """Empty when the answer ended inside the code."""


Part = Block | CodeStart | CodeLine | CodeEnd


class Blocks:
    def __init__(self) -> None:
        self._line = ""
        self._block: list[str] = []
        self._blank = False
        self._code = ""
        self._inner = ""

    @property
    def in_code(self) -> bool:
        return bool(self._code)

    @property
    def tail(self) -> str:
        """The unfinished block, or the unfinished line of code."""
        return self._line if self._code else "\n".join([*self._block, self._line])

    def feed(self, text: str) -> list[Part]:
        *lines, self._line = (self._line + text).split("\n")
        return [part for line in lines for part in self._take(line)]

    def finish(self) -> list[Part]:
        parts = list(self._take(self._line)) if self._line else []
        self._line = ""
        parts += self._flush()
        if self._code:
            parts.append(CodeEnd(""))
            self._code = ""
        return parts

    def _take(self, line: str) -> Iterator[Part]:
        if self._code:
            yield self._code_line(line)
        elif self._inner:
            self._inner_line(line)
        elif not line.strip():
            self._blank = bool(self._block)
            self._block += [""] if self._block else []
        else:
            yield from self._text_line(line)

    def _text_line(self, line: str) -> Iterator[Part]:
        if self._blank and not self._continues(line):
            yield from self._flush()
        self._blank = False
        opening = _FENCE.match(line)
        if opening and not self._in_list:
            yield from self._flush()
            self._code = opening[1]
            yield CodeStart(opening[1], opening[2].strip())
            return
        inner = _INNER_FENCE.match(line)
        self._inner = inner[1] if inner else ""
        self._block.append(line)

    def _code_line(self, line: str) -> Part:
        if not _closes(line, self._code):
            return CodeLine(line)
        self._code = ""
        return CodeEnd(line.strip())

    def _inner_line(self, line: str) -> None:
        self._block.append(line)
        if _closes(line, self._inner):
            self._inner = ""

    @property
    def _in_list(self) -> bool:
        return bool(self._block) and bool(_ITEM.match(self._block[0]))

    def _continues(self, line: str) -> bool:
        """After a blank line only lists go on: with the next item, or with an indented line."""
        return self._in_list and (line[0] in " \t" or bool(_ITEM.match(line)))

    def _flush(self) -> list[Part]:
        text = "\n".join(self._block).rstrip("\n")
        self._block, self._blank, self._inner = [], False, ""
        return [Block(text)] if text.strip() else []


def _closes(line: str, fence: str) -> bool:
    mark = line.strip()
    return len(mark) >= len(fence) and set(mark) == {fence[0]}
