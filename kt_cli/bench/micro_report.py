"""A report as rows of a table, as CSV and as plain data for JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from kt_cli.bench.micro import FORMATS, Limits, Report, Row

COLUMNS = (
    "engine", "format", "pass", "shape", "experts", "top_k", "hidden", "intermediate", "tokens",
    "threads", "ms", "best_ms", "repeats", "bytes", "flops", "gbs", "tflops", "percent_of_limit",
)  # fmt: skip


def record(row: Row, limits: Limits) -> dict[str, Any]:
    """One measurement with what is computed from it, under the names of COLUMNS."""
    values = (
        row.engine, row.format, "backward" if row.backward else "forward", row.shape.name,
        row.shape.experts, row.shape.top_k, row.shape.hidden, row.shape.intermediate, row.tokens,
        row.threads, round(row.ms, 4), round(row.best_ms, 4), row.repeats, round(row.nbytes),
        row.flops, round(row.gbs, 2), round(row.tflops, 4), round(100 * row.share(limits), 1),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def as_csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(record(row, report.limits) for row in report.rows)
    return text.getvalue()


def as_data(report: Report) -> dict[str, Any]:
    return {
        "machine": dict(report.machine),
        "limits": {"read_gbs": dict(report.limits.read_gbs), "gops": dict(report.limits.gops)},
        "rows": [record(row, report.limits) for row in report.rows],
        "skipped": [{"engine": s.engine, "format": s.format, "why": s.why} for s in report.skipped],
    }


HEADINGS = ("engine", "format", "T>", "thr>", "ms>", "best>", "GB/s>", "TFLOP/s>", "limit %>")


def cells(report: Report) -> list[list[str]]:
    ordered = sorted(
        report.rows, key=lambda r: (FORMATS.index(r.format), r.backward, r.tokens, r.engine)
    )
    return [_cells(row, report.limits) for row in ordered]


def titles(report: Report) -> Sequence[str]:
    """The machine's limits, a line each."""
    read = ", ".join(f"{n}: {v:.1f}" for n, v in sorted(report.limits.read_gbs.items()))
    gops = ", ".join(f"{k} {v / 1e3:.3f}" for k, v in report.limits.gops.items())
    return (f"read GB/s by threads   {read}", f"peak Top/s             {gops}")


def _cells(row: Row, limits: Limits) -> list[str]:
    return [
        row.engine,
        f"{row.format} bwd" if row.backward else row.format,
        str(row.tokens),
        str(row.threads),
        f"{row.ms:#.4g}",
        f"{row.best_ms:#.4g}",
        f"{row.gbs:.1f}",
        f"{row.tflops:.3f}",
        f"{100 * row.share(limits):.0f}",
    ]
