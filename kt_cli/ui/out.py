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

from kt_cli import environment
from kt_cli.core.serial import to_plain
from kt_cli.errors import KtError
from kt_cli.ui.gate import Painted, hide, json_text, one_line, trace, visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

SCHEMA_VERSION = 1


class Out:
    """Prints for a human, as JSON, or results only. Every text passes the gate (`ui.gate`)."""

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        interactive: bool | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        secrets: frozenset[str] | None = None,
    ) -> None:
        """`secrets` are never shown; by default those of the environment and the command line."""
        self.json_mode = json_mode
        self.quiet = quiet
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.interactive = _is_terminal() if interactive is None else interactive
        self._secrets = environment.secrets(os.environ, sys.argv) if secrets is None else secrets

    @property
    def on_terminal(self) -> bool:
        """Data goes to a terminal, not into a pipe or a file."""
        return self.stdout.isatty()

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
            if isinstance(item, (str, Painted)):
                self.stdout.write(self._shown(item, self.stdout) + "\n")
            else:
                self.console().print(item, crop=False)
        self.stdout.flush()

    def stream(self, text: str) -> None:
        """An answer while it comes: gated on a terminal, data to the byte in a pipe or a file."""
        self.stdout.write(visible(text) if self.on_terminal else text)
        self.stdout.flush()

    def event(self, name: str, data: Any, human: str = "") -> None:
        """One line of NDJSON on stdout, or `human` on stderr."""
        if self.json_mode:
            self._json_line({"schema": f"kt.event.{name}/{SCHEMA_VERSION}", **_object(data)})
        elif human:
            self.note(human)

    def note(self, text: str | Painted) -> None:
        """What happens, for a person; silent with --quiet and --json."""
        if not self.quiet and not self.json_mode:
            self._err(text)

    def hint(self, text: str) -> None:
        self.note(Painted((("hint: ", "36"), (text, ""))))

    def warn(self, text: str) -> None:
        if not self.json_mode:
            self._err(Painted((("warning: ", "33"), (text, ""))))

    def error(self, error: KtError) -> None:
        """Shows what, why and fix; in JSON mode as an object on stdout."""
        if self.json_mode:
            fields = {"what": error.what, "why": error.why, "fix": error.fix}
            body = {**fields, "exit_code": error.exit_code, **_details(error)}
            self._json_line({"schema": f"kt.error/{SCHEMA_VERSION}", "error": body}, indent=2)
            return
        self._err(Painted((("error: ", "31"), (_indented(error.what), ""))))
        if error.why:
            self._err(f"  why: {_indented(error.why)}")
        if error.fix:
            self._err(f"  fix: {_indented(error.fix)}")

    def trace(self, error: BaseException) -> None:
        """The traceback, for --debug."""
        self._err(trace(error).rstrip("\n"))

    def prompt(self, text: str) -> None:
        """Before an answer that is read on the same line."""
        self.stderr.write(one_line(text))
        self.stderr.flush()

    def clear(self) -> None:
        """An empty screen with the cursor at its top."""
        self.stderr.write("\x1b[H\x1b[2J")
        self.stderr.flush()

    def console(self, *, stderr: bool = False) -> Console:
        from kt_cli.ui.console import GatedConsole

        return GatedConsole(self.stderr if stderr else self.stdout, self._secrets)

    def _err(self, text: str | Painted) -> None:
        self.stderr.write(self._shown(text, self.stderr) + "\n")
        self.stderr.flush()

    def _shown(self, text: str | Painted, stream: TextIO) -> str:
        if isinstance(text, Painted) and colours(stream):
            return hide(text.coloured(), self._secrets)
        return hide(visible(str(text)), self._secrets)

    def _json_line(self, data: Mapping[str, Any], indent: int | None = None) -> None:
        import json

        text = json_text(json.dumps(data, indent=indent, ensure_ascii=False))
        self.stdout.write(hide(text, self._secrets) + "\n")
        self.stdout.flush()


def _indented(text: str) -> str:
    """Further lines of a message stand further right, so that none poses as `why` or `fix`."""
    return text.replace("\n", "\n       ")


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
            grid.add_row(*(Text(one_line(cell)) for cell in row))
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
    return (
        not os.environ.get("CI")
        and sys.stdin is not None
        and sys.stdin.isatty()
        and sys.stderr.isatty()
    )


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
