"""A plan as a person reads it: memory bars, speed, reasons, ways out. Renders, never computes."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kt_cli.core.plan import BODY, Item, Kind, Plan, Pool, Problem, Range
from kt_cli.core.units import gb, tokens
from kt_cli.ui.gate import Painted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kt_cli.core.history import Line

WIDTH, NARROWEST = 78, 44
BESIDE_BAR = 34
"""Columns of a pool's line that are not its bar."""


@dataclass(frozen=True, slots=True)
class Mark:
    glyph: str
    ascii: str
    colour: str
    """SGR code."""


_MARKS = {
    "experts": Mark("█", "#", "32"),
    "weights": Mark("▓", "=", "34"),
    "KV cache": Mark("▒", "%", "35"),
    "other": Mark("▚", "+", "33"),
    "in use": Mark("▞", "x", "31"),
    "free": Mark("░", ".", "90"),
}


@dataclass(frozen=True, slots=True)
class Style:
    unicode: bool = True
    width: int = WIDTH
    room: int | None = None
    """Columns of the terminal; None where lines are as long as they are."""

    @property
    def bar(self) -> int:
        return self.width - BESIDE_BAR

    def mark(self, kind: str) -> str:
        mark = _MARKS[kind]
        return mark.glyph if self.unicode else mark.ascii

    def text(self, words: str) -> str:
        return words if self.unicode else words.translate(_PLAIN)


_PLAIN = str.maketrans({"·": "*", "×": "x", "→": ">", "–": "-", "▕": "|", "▏": "|", "÷": "/"})


def style() -> Style:
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    room = shutil.get_terminal_size().columns - 2 if sys.stdout.isatty() else None
    width = min(WIDTH, max(NARROWEST, room or WIDTH))
    return Style(unicode=encoding == "utf8", width=width, room=room)


def picture(plan: Plan, look: Style | None = None) -> list[RenderableType]:
    """Title, a bar and a legend for each pool, speed, problems with their ways out."""
    chosen = look or style()
    lines: list[RenderableType] = [*_sentence(chosen.text(_title(plan)), chosen.room), ""]
    for pool, count in folded(plan.pools):
        lines += _pool(pool, chosen, count)
    said = [*speed_lines(plan), *_summary(plan, chosen.width)]
    said += [line for problem in plan.problems for line in problem_lines(problem)]
    return [*lines, *(chosen.text(part) for line in said for part in _sentence(line, chosen.room))]


def _sentence(line: str, room: int | None) -> list[str]:
    """One line for whoever copies it, more where the terminal would break it inside a word."""
    if room is None or len(line) <= room:
        return [line]
    return textwrap.wrap(
        line, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def folded(pools: Sequence[Pool]) -> list[tuple[Pool, int]]:
    """Pools that differ by less than two hundredths stand as one, with their number."""
    groups: list[tuple[Pool, int]] = []
    for pool in pools:
        if groups and _alike(groups[-1][0], pool):
            groups[-1] = (groups[-1][0], groups[-1][1] + 1)
        else:
            groups.append((pool, 1))
    return groups


def _alike(first: Pool, other: Pool) -> bool:
    same = first.capacity == other.capacity and first.free == other.free
    kind = first.name.rstrip("0123456789") == other.name.rstrip("0123456789")
    return kind and same and abs(first.used - other.used) < first.capacity / 50


def reasons(plan: Plan, look: Style | None = None) -> list[RenderableType]:
    """Every decision with why and source, then every line of the ledger with its formula."""
    chosen = look or style()
    lines = ["", "decisions"]
    for decision in plan.decisions:
        value = "-" if decision.value is None else decision.value
        lines.append(f"  {decision.name} = {value}  ({decision.source})")
        lines += _filled(decision.why, chosen.width, "      ")
    for pool, last in _repeated(plan.pools):
        name = pool.name if last is pool else f"{pool.name} to {last.name}"
        lines += ["", f"{name} {pool.label}".rstrip()]
        for item in pool.items:
            head = f"  {item.name:<18}{gb(item.bytes):>9}  "
            lines += _filled(item.formula, chosen.width, " " * len(head), head)
        if pool.margin:
            lines.append(f"  {'margin':<18}{gb(pool.margin):>9}  kept free")
        lines.append(f"  {'left':<18}{gb(pool.left):>9}  of {gb(pool.free)} free now")
    return [chosen.text(line) for line in lines]


def _repeated(pools: Sequence[Pool]) -> list[tuple[Pool, Pool]]:
    """First and last of neighbours that differ in nothing but their name."""
    runs: list[tuple[Pool, Pool]] = []
    for pool in pools:
        if runs and replace(runs[-1][0], name=pool.name) == pool:
            runs[-1] = (runs[-1][0], pool)
        else:
            runs.append((pool, pool))
    return runs


def _filled(text: str, width: int, indent: str, first: str | None = None) -> list[str]:
    head = indent if first is None else first
    filled = textwrap.wrap(text, width, initial_indent=head, subsequent_indent=indent)
    return filled or [head.rstrip()]


def comparison(model: str, date: str, lines: Sequence[Line]) -> list[RenderableType]:
    """Predicted against actual."""
    look = style()
    rows = [f"{'':<14}{'predicted':>14}{'actual':>12}{'error':>8}"]
    for x in lines:
        off = "?" if x.off is None else f"{x.off:+.0%}"
        rows.append(f"{x.name:<14}{x.predicted:>14}{x.actual:>12}{off:>8}  {_verdict(x)}")
    return [f"{model}, measured {date}", *(look.text(row) for row in rows)]


def _verdict(line: Line) -> str:
    return "within tolerance" if line.inside else "outside"


def speed_lines(plan: Plan) -> list[str]:
    speed = plan.speed
    parts = [
        ("decode", speed.decode, "tok/s"),
        ("prefill", speed.prefill, "tok/s"),
        ("load", speed.load_s, "s"),
    ]
    shown = [f"{name} {span(r)} {unit}" for name, r, unit in parts if r]
    if not shown:
        return [speed.limit] if speed.limit else []
    return ["   ".join(shown), *([f"limit: {speed.limit}"] if speed.limit else [])]


def span(range_: Range) -> str:
    low, high = _short(range_.low), _short(range_.high)
    return low if low == high else f"{low}–{high}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def problem_lines(problem: Problem) -> Iterable[str]:
    yield f"{problem.severity}: {problem.what}"
    if problem.why:
        yield f"  why: {problem.why}"
    for fix in problem.fixes:
        flag = f"   {fix.flag}" if fix.flag else ""
        yield f"  fix: {fix.action} ({fix.effect}){flag}"


def _title(plan: Plan) -> str:
    return f"{plan.model} on {plan.machine} · engine {plan.engine}"


_WORDS = {
    "kt_method": "method",
    "compute_dtype": "compute",
    "cpu_threads": "threads",
    "gpu_experts": "GPU experts",
    "tp": "tp",
}


def _summary(plan: Plan, width: int) -> list[str]:
    """The decisions people look for first."""
    parts = []
    context, requests = plan.value("context"), plan.value("max_running_requests")
    if context:
        parts.append(f"context {tokens(context)}")
    if requests:
        parts.append(f"{requests} requests at once")
    for name, word in _WORDS.items():
        value = plan.value(name)
        if value is not None:
            parts.append(f"{word} {value}")
    return textwrap.wrap(" · ".join(parts), width)


def _pool(pool: Pool, look: Style, count: int = 1) -> list[RenderableType]:
    sizes = _kinds(pool)
    name = pool.name if count == 1 else f"{count}×{pool.name.rstrip('0123456789')}"
    head = f"{look.text(name):<6}{gb(pool.capacity):>9} "
    edge = ("▕", "▏") if look.unicode else ("|", "|")
    full = f"{edge[0]}{_bar(pool, sizes, look)}{edge[1]}"
    state = f" {_state(pool)}"
    legend = [f"{look.mark(k)} {_named(k, pool, sizes)}" for k in sizes if sizes[k]]
    return [_coloured(head + full + state), *_wrapped(legend, " " * len(head), look.width)]


def _state(pool: Pool) -> str:
    """The figure that the problem names, if there is one."""
    if pool.short:
        return f"{gb(pool.short)} too much"
    return f"{gb(pool.left)} free" if pool.left >= 0 else f"{gb(-pool.left)} missing"


def _kinds(pool: Pool) -> dict[str, int]:
    sizes = dict.fromkeys(_MARKS, 0)
    for item in pool.items:
        sizes[_kind(item)] += item.bytes
    sizes["other"] += pool.margin
    sizes["in use"] = max(0, pool.capacity - pool.free)
    sizes["free"] = max(0, pool.left)
    return sizes


def _kind(item: Item) -> str:
    if item.kind in BODY:
        return "weights"
    return {Kind.EXPERTS: "experts", Kind.CACHE: "KV cache"}.get(item.kind, "other")


def _named(kind: str, pool: Pool, sizes: dict[str, int]) -> str:
    if kind == "other":
        names = [i.name for i in pool.items if _kind(i) == "other"]
        names += ["margin"] if pool.margin else []
        return f"{', '.join(names)} {gb(sizes[kind])}"
    return f"{kind} {gb(sizes[kind])}"


def _bar(pool: Pool, sizes: dict[str, int], look: Style) -> str:
    """Shares of the capacity by largest remainder; what is there shows at least once."""
    whole = max(pool.capacity, sum(sizes.values()))
    cells = {k: max(1, round(v * look.bar / whole)) for k, v in sizes.items() if v}
    while sum(cells.values()) > look.bar:
        cells[max(cells, key=lambda k: cells[k])] -= 1
    if cells:
        cells[max(cells, key=lambda k: cells[k])] += look.bar - sum(cells.values())
    return "".join(look.mark(kind) * cells.get(kind, 0) for kind in _MARKS)


_RUNS = re.compile("|".join(f"{mark.glyph}+" for mark in _MARKS.values()))
_COLOURS = {mark.glyph: mark.colour for mark in _MARKS.values()}


def _coloured(line: str) -> Painted:
    """The bar's runs in colour where the terminal shows any."""
    pieces: list[tuple[str, str]] = []
    end = 0
    for run in _RUNS.finditer(line):
        pieces += [(line[end : run.start()], ""), (run[0], _COLOURS[run[0][0]])]
        end = run.end()
    return Painted((*pieces, (line[end:], "")))


def _wrapped(parts: Sequence[str], indent: str, width: int) -> list[str]:
    """Two spaces between parts; a part that is too long breaks at its commas."""
    lines: list[str] = []
    for part in parts:
        for piece, gap in _pieces(part, width - len(indent)):
            if lines and len(lines[-1]) + len(gap) + len(piece) <= width:
                lines[-1] += gap + piece
            else:
                lines.append(indent + piece)
    return lines


def _pieces(part: str, room: int) -> list[tuple[str, str]]:
    if len(part) <= room:
        return [(part, "  ")]
    first, *rest = part.split(", ")
    return [(first + ",", "  "), *((r + ",", " ") for r in rest[:-1]), (rest[-1], " ")]
