"""rich's console behind the gate. A module of its own, for rich takes long to import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from kt_cli.ui.gate import hide, visible


class GatedConsole(Console):
    """Text of every renderable passes the gate; rich's own control segments stay."""

    def __init__(self, stream: TextIO, secrets: frozenset[str]) -> None:
        super().__init__(file=stream, highlight=False, markup=False, emoji=False)
        self._secrets = secrets

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=hide(visible(segment.text), self._secrets))
