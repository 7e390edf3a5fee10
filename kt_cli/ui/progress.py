"""Progress of something slow: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from kt_cli.ui.out import Out

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_STEP = 0.25
"""Share between two plain lines of one stage."""


class Show(Protocol):
    def __call__(self, stage: str, fraction: float | None) -> None: ...


@contextmanager
def progress(out: Out, title: str) -> Iterator[Show]:
    """Gives a function that shows how far a stage is; silent with --quiet and --json."""
    if out.quiet or out.json_mode:
        yield _silent
    elif _animated(out):
        yield from _bar(out, title)
    else:
        yield Lines(out, title)


def _silent(stage: str, fraction: float | None) -> None:
    """Nobody watches."""


class Lines:
    """One line per stage and per quarter of it."""

    def __init__(self, out: Out, title: str) -> None:
        self._out = out
        self._title = title
        self._stage = ""
        self._next = 0.0

    def __call__(self, stage: str, fraction: float | None) -> None:
        if stage != self._stage:
            self._stage, self._next = stage, 0.0
        done = 0.0 if fraction is None else fraction
        if done < self._next:
            return
        self._next = (done // _STEP + 1) * _STEP
        share = "" if fraction is None else f" {100 * done:.0f} %"
        self._out.note(f"{self._title}: {stage}{share}")


def _bar(out: Out, title: str) -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[title]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    bar = Progress(*columns, console=out.console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("", title=title, total=1.0)
        yield _shower(bar, task)


def _shower(bar: Progress, task: TaskID) -> Show:
    def show(stage: str, fraction: float | None) -> None:
        bar.update(task, description=stage, completed=0.0 if fraction is None else fraction)

    return show


def _animated(out: Out) -> bool:
    return out.stderr.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")
