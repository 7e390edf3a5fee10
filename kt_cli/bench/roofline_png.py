"""The roofline plot as PNG, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from kt_cli.bench.micro import Report
from kt_cli.bench.roofline import HEIGHT, WIDTH, Item, Line, Words, drawing
from kt_cli.errors import EnvironmentBroken

DPI = 150
MARKS = {"circle": "o", "square": "s", "triangle": "^"}
ANCHORS = {"start": "left", "middle": "center", "end": "right"}
POINT = 0.72
"""Points of type or line to a pixel of the drawing, at 100 pixels an inch."""


def require(path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentBroken(
            f"cannot write {path}",
            "a PNG needs matplotlib, which is not installed",
            "give a name that ends with .svg, or `pip install matplotlib`",
        )


def write(report: Report, path: Path) -> None:
    figures = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    for item in drawing(report):
        _draw(axes, item)
    figure.savefig(path)


def _draw(axes: Any, item: Item) -> None:
    if isinstance(item, Line):
        (x1, y1), (x2, y2) = item.start, item.end
        axes.plot([x1, x2], [y1, y2], color=item.colour, linewidth=POINT, zorder=1)
    elif isinstance(item, Words):
        side = ANCHORS[item.anchor]
        axes.text(*item.at, item.text, ha=side, va="baseline", fontsize=item.size * POINT)
    else:
        size = 10 * POINT
        axes.plot(*item.at, MARKS[item.shape], color=item.colour, markersize=size, mew=0)
