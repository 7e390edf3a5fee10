"""Roofline plot of a report, as SVG text: operations per byte against operations per second."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from kt_cli.bench.micro import Limits, Report, Row

WIDTH, HEIGHT = 900, 560
LEFT, RIGHT, TOP, BOTTOM = 80, 220, 40, 60
COLOURS = {
    "bf16": "#1b6ca8", "int8": "#c8553d", "int4": "#4f772d", "q8_0": "#e09f3e", "q4_1": "#90a955",
    "mxfp4": "#6a4c93", "nvfp4": "#2a9d8f", "iq4_nl": "#b5838d",
}  # fmt: skip
MARKS = {"kt_moe": "circle", "kt-kernel": "square", "torch": "triangle"}


@dataclass(frozen=True, slots=True)
class Axes:
    """Decades shown, of operations per byte and of Gop/s."""

    x: tuple[int, int]
    y: tuple[int, int]

    def at(self, intensity: float, gops: float) -> tuple[float, float]:
        span_x, span_y = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        right = (math.log10(intensity) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(gops) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + right * span_x, HEIGHT - BOTTOM - up * span_y


def svg(report: Report) -> str:
    axes = fit(report)
    body = [*_grid(axes), *_roofs(axes, report.limits), *_points(axes, report.rows)]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">'
    )
    white = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, white, *body, *_legend(report.rows), "</svg>", ""])


def fit(report: Report) -> Axes:
    """Decades that hold every point and every peak."""
    xs = [intensity(r) for r in report.rows] or [1.0]
    ys = [r.flops / r.ms / 1e6 for r in report.rows] or [1.0]
    ys += report.limits.gops.values()
    return Axes(_decades(xs), _decades(ys))


def intensity(row: Row) -> float:
    return row.flops / row.nbytes


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values) * 1.01))
    return low, max(high, low + 1)


def _grid(axes: Axes) -> Iterator[str]:
    for decade in range(axes.x[0], axes.x[1] + 1):
        x, top = axes.at(10.0**decade, 10.0 ** axes.y[1])
        _, bottom = axes.at(1, 10.0 ** axes.y[0])
        yield _line((x, top), (x, bottom), "#ddd")
        yield _text(x, bottom + 18, f"{10.0**decade:g}", "middle")
    for decade in range(axes.y[0], axes.y[1] + 1):
        left, y = axes.at(10.0 ** axes.x[0], 10.0**decade)
        right, _ = axes.at(10.0 ** axes.x[1], 1)
        yield _line((left, y), (right, y), "#ddd")
        yield _text(left - 8, y + 4, f"{10.0**decade:g}", "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 15, "operations per weight byte", "middle")
    yield _text(LEFT, TOP - 15, "Gop/s", "middle")


def _roofs(axes: Axes, limits: Limits) -> Iterator[str]:
    """The slope of the bandwidth, and a line for each peak from where the slope meets it."""
    read = max(limits.read_gbs.values(), default=0.0)
    low, high = 10.0 ** axes.x[0], 10.0 ** axes.x[1]
    for kind, peak in limits.gops.items():
        start = min(max(peak / read, low), high) if read else low
        a, b = axes.at(start, peak), axes.at(high, peak)
        yield _line(a, b, "#555")
        yield _text(b[0] + 6, b[1] + 4, f"{kind}: {peak / 1e3:.2f} Top/s", "start")
    if read:
        top = max(limits.gops.values(), default=10.0 ** axes.y[1])
        first = max(low, 10.0 ** axes.y[0] / read)
        a, b = axes.at(first, read * first), axes.at(min(high, top / read), min(top, read * high))
        yield _line(a, b, "#555")
        yield _text(a[0] + 8, a[1] - 8, f"{read:.1f} GB/s", "start")


def _points(axes: Axes, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        x, y = axes.at(intensity(row), row.flops / row.ms / 1e6)
        title = f"{row.engine} {row.format} T={row.tokens}: {row.ms:.3f} ms"
        yield _mark(MARKS.get(row.engine, "circle"), x, y, COLOURS.get(row.format, "black"), title)


def _legend(rows: Sequence[Row]) -> Iterator[str]:
    pairs = dict.fromkeys((r.engine, r.format) for r in rows)
    for i, (engine, format) in enumerate(pairs):
        x, y = WIDTH - RIGHT + 30, HEIGHT - BOTTOM - 20 * (len(pairs) - i)
        yield _mark(MARKS.get(engine, "circle"), x, y, COLOURS.get(format, "black"), "")
        yield _text(x + 12, y + 4, f"{engine} {format}", "start")


def _line(a: tuple[float, float], b: tuple[float, float], colour: str) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _mark(shape: str, x: float, y: float, colour: str, title: str) -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    if shape == "square":
        place = f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"'
        return f'{place} fill="{colour}">{inner}</rect>'
    if shape == "triangle":
        corners = f"{x:.1f},{y - 6:.1f} {x - 6:.1f},{y + 5:.1f} {x + 6:.1f},{y + 5:.1f}"
        return f'<polygon points="{corners}" fill="{colour}">{inner}</polygon>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">{inner}</circle>'
