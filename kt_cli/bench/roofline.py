"""Roofline plot of a report: operations per byte against operations per second.

The drawing is a list of lines, words and marks in pixels, which `svg` and `roofline_png` put out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.sax.saxutils import escape

from kt_cli.bench.micro import Limits, Report, Row

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 220, 60, 60
COLOURS = {
    "bf16": "#1b6ca8", "int8": "#c8553d", "int4": "#4f772d", "q8_0": "#e09f3e", "q4_1": "#90a955",
    "mxfp4": "#6a4c93", "nvfp4": "#2a9d8f", "iq4_nl": "#b5838d",
    "q6_0": "#577590", "q6_1": "#8a817c",
}  # fmt: skip
MARKS = {"kt_moe": "circle", "kt-kernel": "square", "torch": "triangle"}
GRID, ROOF = "#ddd", "#555"
APART = 14
"""Pixels between the words beside neighbouring roofs."""

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    start: Point
    end: Point
    colour: str


@dataclass(frozen=True, slots=True)
class Words:
    """`anchor`: the part of the text at the point: start, middle or end of its base line."""

    at: Point
    text: str
    anchor: str = "start"
    size: int = 12


@dataclass(frozen=True, slots=True)
class Mark:
    shape: str
    at: Point
    colour: str
    title: str = ""


Item: TypeAlias = Line | Words | Mark


@dataclass(frozen=True, slots=True)
class Axes:
    """Decades shown, of operations per byte and of Gop/s."""

    x: tuple[int, int]
    y: tuple[int, int]

    def at(self, intensity: float, gops: float) -> Point:
        span_x, span_y = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        right = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(gops) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + right * span_x, HEIGHT - BOTTOM - up * span_y


def drawing(report: Report) -> list[Item]:
    axes = fit(report)
    return [
        *_grid(axes),
        *_roofs(axes, report.limits),
        *_points(axes, report.rows),
        *_legend(report.rows),
        Words((LEFT, 24), _title(report), size=14),
    ]


def fit(report: Report) -> Axes:
    """Decades that hold every point and every peak."""
    xs = [intensity(r) for r in report.rows] or [1.0]
    ys = [r.flops / r.ms / 1e6 for r in report.rows] or [1.0]
    ys += report.limits.gops.values()
    return Axes(_decades(xs), _decades(ys))


def intensity(row: Row) -> float:
    return row.flops / row.nbytes


def _title(report: Report) -> str:
    parts = [row.shape.described for row in report.rows[:1]]
    return ", ".join([*parts, *(str(report.machine[k]) for k in ("cpu",) if k in report.machine)])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    return low, max(high, low + 1)


def _grid(axes: Axes) -> Iterator[Item]:
    for decade in range(axes.x[0], axes.x[1] + 1):
        x, top = axes.at(10.0**decade, 10.0 ** axes.y[1])
        _, bottom = axes.at(1, 10.0 ** axes.y[0])
        yield Line((x, top), (x, bottom), GRID)
        yield Words((x, bottom + 18), f"{10.0**decade:g}", "middle")
    for decade in range(axes.y[0], axes.y[1] + 1):
        left, y = axes.at(10.0 ** axes.x[0], 10.0**decade)
        right, _ = axes.at(10.0 ** axes.x[1], 1)
        yield Line((left, y), (right, y), GRID)
        yield Words((left - 8, y + 4), f"{10.0**decade:g}", "end")
    yield Words(((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 15), "operations per weight byte", "middle")
    yield Words((LEFT, TOP - 12), "Gop/s", "middle")


def _roofs(axes: Axes, limits: Limits) -> Iterator[Item]:
    """The slope of the bandwidth, and a line for each peak from where the slope meets it."""
    read = max(limits.read_gbs.values(), default=0.0)
    low, high = 10.0 ** axes.x[0], 10.0 ** axes.x[1]
    below = -math.inf
    for kind, peak in sorted(limits.gops.items(), key=lambda item: -item[1]):
        start = min(max(peak / read, low), high) if read else low
        a, b = axes.at(start, peak), axes.at(high, peak)
        below = max(b[1] + 4, below + APART)
        yield Line(a, b, ROOF)
        yield Words((b[0] + 6, below), f"{kind}: {peak / 1e3:.2f} Top/s")
    if read:
        top = max(limits.gops.values(), default=10.0 ** axes.y[1])
        first = max(low, 10.0 ** axes.y[0] / read)
        a, b = axes.at(first, read * first), axes.at(min(high, top / read), min(top, read * high))
        yield Line(a, b, ROOF)
        yield Words(((a[0] + b[0]) / 2 - 8, (a[1] + b[1]) / 2 - 8), f"{read:.1f} GB/s", "end")


def _points(axes: Axes, rows: Sequence[Row]) -> Iterator[Item]:
    for row in rows:
        x, y = axes.at(intensity(row), row.flops / row.ms / 1e6)
        title = f"{row.engine} {row.format} T={row.tokens}: {row.ms:.3f} ms"
        yield _mark(row, (x, y), title)
        yield Words((x + 7, y + 3), str(row.tokens), size=9)


def _legend(rows: Sequence[Row]) -> Iterator[Item]:
    first = {(row.engine, row.format): row for row in rows}
    x = WIDTH - RIGHT + 30
    for i, row in enumerate(first.values()):
        y = HEIGHT - BOTTOM - 20 * (len(first) - i)
        yield _mark(row, (x, y))
        yield Words((x + 12, y + 4), f"{row.engine} {row.format}")
    yield Words((x - 5, HEIGHT - BOTTOM + 4), "beside a mark: tokens a call", size=10)


def _mark(row: Row, at: Point, title: str = "") -> Mark:
    shape = MARKS.get(row.engine, "circle")
    return Mark(shape, at, COLOURS.get(row.format, "black"), title)


def svg(report: Report) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    )
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, white, *map(_as_svg, drawing(report)), "</svg>", ""])


def _as_svg(item: Item) -> str:
    if isinstance(item, Line):
        (x1, y1), (x2, y2) = item.start, item.end
        ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        return f'<line {ends} stroke="{item.colour}"/>'
    x, y = item.at
    if isinstance(item, Words):
        look = f'text-anchor="{item.anchor}" font-size="{item.size}"'
        return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(item.text)}</text>'
    inner = f"<title>{escape(item.title)}</title>" if item.title else ""
    if item.shape == "square":
        place = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"'
        return f'{place} fill="{item.colour}">{inner}</rect>'
    if item.shape == "triangle":
        corners = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{corners}" fill="{item.colour}">{inner}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{item.colour}">{inner}</circle>'
