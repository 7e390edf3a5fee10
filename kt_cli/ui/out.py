"""`Out`: the one sink for everything a person or a program reads.

Data goes to stdout, everything else to stderr. In JSON mode stdout carries exactly one object per
result (`schema` names its shape), or one object per line for events.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from kt_cli.core.serial import to_plain
from kt_cli.errors import KtError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

SCHEMA_VERSION = 1


class Out:
    """Prints for a human, as JSON, or results only."""

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        interactive: bool | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.interactive = _is_terminal() if interactive is None else interactive

    def result(self, schema: str, data: Any, *human: RenderableType) -> None:
        """Shows `data`: as JSON under `schema`, else as the given texts, tables or pictures."""
        if self.json_mode:
            self._json_line({"schema": f"kt.{schema}/{SCHEMA_VERSION}", **_object(data)}, indent=2)
        elif not human:
            self.print(_plain_text(data))
        else:
            self.print(*human)

    def print(self, *renderables: RenderableType) -> None:
        """Human data on stdout; a str is printed as it is, never as markup."""
        if self.json_mode:
            return
        for item in renderables:
            if isinstance(item, str):
                self.stdout.write(item + "\n")
            else:
                self.console().print(item, crop=False)
        self.stdout.flush()

    def event(self, name: str, data: Any, human: str = "") -> None:
        """One line of NDJSON on stdout, or `human` on stderr."""
        if self.json_mode:
            self._json_line({"schema": f"kt.event.{name}/{SCHEMA_VERSION}", **_object(data)})
        elif human:
            self.note(human)

    def note(self, text: str) -> None:
        """What happens, for a person; silent with --quiet and --json."""
        if not self.quiet and not self.json_mode:
            self._err(text)

    def hint(self, text: str) -> None:
        self.note(self._styled("hint: ", "cyan") + text)

    def warn(self, text: str) -> None:
        if not self.json_mode:
            self._err(self._styled("warning: ", "yellow") + text)

    def error(self, error: KtError) -> None:
        """Shows what, why and fix; in JSON mode as an object on stdout."""
        if self.json_mode:
            fields = {"what": error.what, "why": error.why, "fix": error.fix}
            body = {**fields, "exit_code": error.exit_code, **_details(error)}
            self._json_line({"schema": f"kt.error/{SCHEMA_VERSION}", "error": body}, indent=2)
            return
        self._err(self._styled("error: ", "red") + error.what)
        if error.why:
            self._err(f"  why: {error.why}")
        if error.fix:
            self._err(f"  fix: {error.fix}")

    def console(self, *, stderr: bool = False) -> Console:
        from rich.console import Console

        stream = self.stderr if stderr else self.stdout
        return Console(file=stream, highlight=False, markup=False, emoji=False)

    def _err(self, text: str) -> None:
        self.stderr.write(text + "\n")
        self.stderr.flush()

    def _styled(self, text: str, colour: str) -> str:
        codes = {"red": "31", "yellow": "33", "cyan": "36"}
        return f"\x1b[{codes[colour]}m{text}\x1b[0m" if colours(self.stderr) else text

    def _json_line(self, data: Mapping[str, Any], indent: int | None = None) -> None:
        import json

        self.stdout.write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")
        self.stdout.flush()


def colours(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> RenderableType:
    """A plain table; columns whose name ends with `>` are right-aligned. Nothing is cut: a narrow
    terminal has columns closer together and folded cells, a pipe has lines as long as they are."""
    return _Table(columns, rows, title)


@dataclass(frozen=True, slots=True)
class _Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = self._grid(gap=2)
        natural = console.measure(wide, options=options.update(width=10_000)).maximum
        if not console.is_terminal and "COLUMNS" not in os.environ:
            options = options.update(width=natural)
        grid = wide if natural <= options.max_width else self._grid(gap=1)
        yield from console.render(grid, options)

    def _grid(self, gap: int) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        head, title = box.SIMPLE_HEAD, self.title or None
        padding = (0, gap - 1, 0, 0)
        grid = Table(box=head, title=title, title_justify="left", pad_edge=False, padding=padding)
        for column in self.columns:
            name, right = column.rstrip(">"), column.endswith(">")
            grid.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            grid.add_row(*(Text(cell) for cell in row))
        return grid


def human_bytes(count: int) -> str:
    """Decimal units, as disks and memory are sold: 1.5 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} TB"


def _is_terminal() -> bool:
    wanted = not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return wanted and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _object(data: Any) -> dict[str, Any]:
    plain = to_plain(data)
    return plain if isinstance(plain, dict) else {"items": plain}


def _details(error: KtError) -> dict[str, Any]:
    details = getattr(error, "details", None)
    return _object(details) if details else {}


def _plain_text(data: Any) -> str:
    if isinstance(data, str):
        return data
    return "\n".join(f"{key}: {value}" for key, value in _object(data).items())
