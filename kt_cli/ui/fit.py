"""The table of `kt fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kt_cli.core.fit import Fit
from kt_cli.core.units import gb, tokens
from kt_cli.ui.plan import span, style

if TYPE_CHECKING:
    from rich.console import RenderableType


HEAD = ("model", "method", "context", "decode", "prefill", "RAM", "download")
SFT_BASIS = "LoRA, frozen experts on the CPU; sizes are computed, no run was measured"
SFT_HEAD = ("model", "experts", "sample", "GPUs", "each", "RAM", "download")


def fit_table(rows: Sequence[Fit], machine: str) -> list[RenderableType]:
    """Plain text that fits 80 columns; what does not run says what is missing."""
    lines = _table(HEAD, rows, _cells, machine)
    count = sum(r.runs for r in rows)
    lines += ["", f"{count} of {len(rows)} run; speeds in tokens/s; `kt plan MODEL` tells why"]
    if any(r.flag for r in rows):
        lines.append("a flag after `;` makes it fit")
    return lines + _starred(rows)


def sft_table(rows: Sequence[Fit], machine: str) -> list[RenderableType]:
    lines = _table(SFT_HEAD, rows, _sft_cells, machine)
    count = sum(r.runs for r in rows)
    lines += [
        "",
        f"{count} of {len(rows)} can be fine-tuned by LLaMA-Factory with kt-kernel:",
        SFT_BASIS,
    ]
    return lines + _starred(rows)


def _table(
    head: Sequence[str], rows: Sequence[Fit], cells: Callable[[Fit], Sequence[str]], machine: str
) -> list[RenderableType]:
    look = style()
    table = [head, *(cells(r) for r in rows if r.runs)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    widths[0] = max([widths[0], *(len(r.model) for r in rows)])
    lines: list[RenderableType] = [f"on {machine}", "", _line(head, widths)]
    for row in rows:
        text = _line(cells(row), widths) if row.runs else _not(row, widths[0])
        lines.append(look.text(text))
    return lines


def _starred(rows: Sequence[Fit]) -> list[RenderableType]:
    warned = any(r.runs and r.warnings for r in rows)
    return ["* with a warning, such as a conversion first"] if warned else []


def _cells(row: Fit) -> tuple[str, ...]:
    decode = span(row.decode) if row.decode else "?"
    prefill = span(row.prefill) if row.prefill else "?"
    method = row.method + ("*" if row.warnings else "")
    download = "here" if row.local else gb(row.download)
    return row.model, method, tokens(row.context), decode, prefill, gb(row.ram), download


def _sft_cells(row: Fit) -> tuple[str, ...]:
    method = row.method + ("*" if row.warnings else "")
    each = gb(row.vram / max(1, row.gpus))
    download = "here" if row.local else gb(row.download)
    return row.model, method, tokens(row.context), str(row.gpus), each, gb(row.ram), download


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = " ".join(f"{c:<{w}}" for c, w in zip(cells[:2], widths[:2], strict=True))
    right = " ".join(f"{c:>{w}}" for c, w in zip(cells[2:], widths[2:], strict=True))
    return f"{left} {right}"


def _not(row: Fit, width: int) -> str:
    reason = row.short.replace(f"{row.model} ", "")
    cure = f"; {row.flag}" if row.flag else ""
    return f"{row.model:<{width}} no: {reason}{cure}"
