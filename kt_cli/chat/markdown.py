"""Model text as Markdown for the terminal, where nothing the model wrote may vanish.

Raw HTML, links, images, references, entities and backslashes (LaTeX has many) stay as they were
written, and a line break stays a line break.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment
from rich.text import Text

LITERAL = ("link", "image", "autolink", "reference", "entity", "escape", "lheading")
MAX_NESTING = 8
CODE_THEME = "ansi_dark"
MAX_STYLED = 20_000
"""Characters of one block; a longer one is no prose and is shown as it is."""


class _Heading(Heading):
    """On the left and without a frame, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self.text.copy()
        text.justify = "left"
        yield text


class ModelMarkdown(Markdown):
    elements = {**Markdown.elements, "heading_open": _Heading}  # noqa: RUF012


def render_block(text: str) -> Markdown | Text:
    if len(text) > MAX_STYLED:
        return Text(text)
    markdown = ModelMarkdown("", code_theme=CODE_THEME)
    options = {"html": False, "maxNesting": MAX_NESTING}
    parser = MarkdownIt("commonmark", options).enable(["strikethrough", "table"])
    tokens = parser.disable(list(LITERAL)).parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
    markdown.parsed = tokens
    return markdown


class Trimmed:
    """`body` without blank lines around it, and of that the last `height` lines."""

    def __init__(self, body: Markdown | Text, height: int | None = None) -> None:
        self._body = body
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._body, options.update(height=None), pad=False)
        filled = [number for number, line in enumerate(lines) if _has_text(line)]
        shown = lines[filled[0] : filled[-1] + 1] if filled else []
        for line in shown[-self._height :] if self._height else shown:
            yield from line
            yield Segment.line()


def _has_text(line: list[Segment]) -> bool:
    return any(segment.text.strip() for segment in line)
