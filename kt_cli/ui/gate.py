"""The gate for everything that came from outside: models, files, servers, clients, tools.

What a terminal would obey becomes visible: C0 controls as their pictures (␛ for escape), C1
controls, bidirectional controls and halves of surrogate pairs as �. Each character is looked at
alone, so a sequence that is split over several writes is caught as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

HIDDEN = "***"
REPLACEMENT = 0xFFFD
_STEERING = (
    *range(0x80, 0xA0),  # C1
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),  # separators of lines and paragraphs, embeddings and overrides
    *range(0x2066, 0x2070),  # isolates, deprecated format controls
    *range(0xFFF9, 0xFFFC),
)
_PICTURES = {**{code: 0x2400 + code for code in range(0x20)}, 0x7F: 0x2421}
_BLOCK: dict[int, int | None] = {
    **_PICTURES,
    **dict.fromkeys((*_STEERING, *range(0xD800, 0xE000)), REPLACEMENT),
    0x09: 0x09,
    0x0A: 0x0A,
    0x0D: None,
}
_LINE: dict[int, int | None] = {**_BLOCK, 0x09: 0x20, 0x0A: 0x240A}
_JSON = {code: f"\\u{code:04x}" for code in (0x7F, *_STEERING, *range(0xD800, 0xE000))}


def visible(text: str) -> str:
    """Text of several lines: line ends and tabs stay, carriage returns are dropped."""
    return text.translate(_BLOCK)


def one_line(text: str) -> str:
    """A name or a cell: a line end in it becomes ␊, so that nothing can pose as the next line."""
    return text.translate(_LINE)


def json_text(text: str) -> str:
    """JSON that was written with its own escapes, with those that a terminal needs besides."""
    return text.translate(_JSON)


def hide(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets, also where JSON has escaped them."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN).replace(json.dumps(secret)[1:-1], HIDDEN)
    return text


def trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))


@dataclass(frozen=True, slots=True)
class Painted:
    """A line with colours of our own: pieces of text, each with an SGR code or none."""

    pieces: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def coloured(self) -> str:
        """With escape sequences around pieces that have passed the gate."""
        return "".join(
            f"\x1b[{code}m{visible(text)}\x1b[0m" if code and text else visible(text)
            for text, code in self.pieces
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(str(self))
