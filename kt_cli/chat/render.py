"""Shows an answer while it comes: as plain text, or as Markdown in a terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from kt_cli.chat.blocks import Block, Blocks, CodeEnd, CodeLine, CodeStart, Part
from kt_cli.chat.highlight import Highlighter
from kt_cli.chat.markdown import Trimmed, render_block
from kt_cli.chat.wrap import Wrapper
from kt_cli.ui import Out, colours, visible

LEAST_WIDTH = 20
FRAME_S = 0.06
SPARE_LINES = 2
THINKING = "dim italic"
FENCE = "dim"


class Renderer(Protocol):
    """Used as a context: leaving it shows what is still held back, also after an interruption."""

    def __enter__(self) -> Renderer: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def text(self, text: str) -> None: ...

    def reasoning(self, text: str) -> None: ...


def for_conversation(out: Out) -> Renderer:
    """Markdown where the terminal has colours and some width."""
    if not colours(out.stdout) or _columns() < LEAST_WIDTH:
        return Plain(out.stream, terminal=True, thoughts=True)
    return Rich(out.console())


def _columns() -> int:
    return shutil.get_terminal_size().columns


class Plain:
    """The text as it is, to the byte; on a `terminal` made visible and broken between words."""

    def __init__(
        self, write: Callable[[str], object], *, terminal: bool = False, thoughts: bool = False
    ) -> None:
        self._stream = write
        self._wrapper = Wrapper(_columns) if terminal else None
        self._thoughts = thoughts
        self._last = ""
        self._thinking = False

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        if self._wrapper:
            self._put(self._wrapper.finish())
        if self._last and self._last != "\n":
            self._put("\n")

    def text(self, text: str) -> None:
        if self._thinking:
            self._write("\n\n")
            self._thinking = False
        self._write(text)

    def reasoning(self, text: str) -> None:
        if not self._thoughts:
            return
        if not self._thinking:
            self._write("(thinking) ")
            self._thinking = True
        self._write(text)

    def _write(self, text: str) -> None:
        self._put(self._wrapper.feed(visible(text)) if self._wrapper else text)

    def _put(self, text: str) -> None:
        if text:
            self._stream(text)
            self._last = text[-1]


class Rich:
    """Finished blocks are printed for good; the unfinished one lives below them until it is."""

    def __init__(self, console: Console, *, frame_s: float = FRAME_S) -> None:
        """`frame_s` 0 draws after every piece of text."""
        self._console = console
        self._frame_s = frame_s
        self._blocks = Blocks()
        self._live: Live | None = None
        self._status = console.status(Text("waiting for the first token", style="dim"))
        self._highlighter: Highlighter | None = None
        self._printed = False
        self._thoughts: Wrapper | None = None
        self._next_frame = 0.0

    def __enter__(self) -> Rich:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        self._end_thinking()
        parts = self._blocks.finish()
        if self._live is not None:
            self._live.update(Text(""))
            self._live.stop()
        for part in parts:
            self._print(part)

    def reasoning(self, text: str) -> None:
        self._status.stop()
        self._thoughts = self._thoughts or Wrapper(lambda: self._console.width)
        self._think(self._thoughts.feed(visible(text)))

    def _think(self, text: str) -> None:
        self._console.print(Text(text, style=THINKING), end="", soft_wrap=True)

    def text(self, text: str) -> None:
        self._status.stop()
        self._end_thinking()
        for part in self._blocks.feed(visible(text)):
            self._print(part)
        self._show_tail()

    def _end_thinking(self) -> None:
        if self._thoughts:
            self._think(self._thoughts.finish())
            self._console.print("\n")
            self._thoughts = None

    def _print(self, part: Part) -> None:
        if isinstance(part, Block):
            self._gap()
            self._out(Trimmed(render_block(part.text)))
        elif isinstance(part, CodeStart):
            self._gap()
            self._highlighter = Highlighter(part.language)
            self._out(Text(part.fence + part.language, style=FENCE))
        elif isinstance(part, CodeLine) and self._highlighter:
            self._out(self._highlighter.line(part.text), whole_lines=True)
        elif isinstance(part, CodeEnd) and part.fence:
            self._out(Text(part.fence, style=FENCE))

    def _gap(self) -> None:
        if self._printed:
            self._out(Text(""))
        self._printed = True

    def _out(self, item: RenderableType, *, whole_lines: bool = False) -> None:
        """Above the live part; the terminal wraps a line of code, so that it is copied whole."""
        if self._live is not None:
            self._live.update(Text(""))
        self._console.print(
            item, soft_wrap=whole_lines, end="" if isinstance(item, Trimmed) else "\n"
        )

    def _show_tail(self) -> None:
        now = time.perf_counter()
        if now < self._next_frame:
            return
        if self._live is None:
            self._live = self._open_live()
        height = max(1, self._console.size.height - SPARE_LINES)
        self._live.update(Trimmed(self._tail(), height), refresh=True)
        # A long unfinished block takes long to lay out; half of the time is left for the rest.
        spent = time.perf_counter() - now
        self._next_frame = now + max(self._frame_s, 2 * spent) if self._frame_s else now

    def _tail(self) -> Markdown | Text:
        tail = self._blocks.tail
        return Text(tail) if self._blocks.in_code else render_block(tail)

    def _open_live(self) -> Live:
        live = Live(
            Text(""),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        live.start()
        return live
