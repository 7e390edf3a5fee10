"""The roofline plot as PNG, drawn by matplotlib where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from kt_cli.bench.micro import Report
from kt_cli.bench.roofline import COLOURS, intensity
from kt_cli.errors import EnvironmentBroken

MARKS = {"kt_moe": "o", "kt-kernel": "s", "torch": "^"}


def require(path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        raise EnvironmentBroken(
            f"cannot write {path}",
            "a PNG needs matplotlib, which is not installed",
            "give a name that ends with .svg, or `pip install matplotlib`",
        )


def write(report: Report, path: Path) -> None:
    figures = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(9, 5.6), dpi=120, layout="constrained")
    axes = figure.add_subplot(
        xscale="log", yscale="log", xlabel="operations per weight byte", ylabel="Gop/s"
    )
    for row in report.rows:
        axes.plot(
            intensity(row),
            row.flops / row.ms / 1e6,
            MARKS.get(row.engine, "o"),
            color=COLOURS.get(row.format, "black"),
            label=f"{row.engine} {row.format}",
        )
    read = max(report.limits.read_gbs.values(), default=0.0)
    for kind, peak in report.limits.gops.items():
        axes.axhline(peak, color="#555", label=f"{kind} {peak / 1e3:.2f} Top/s")
    if read:
        axes.axline((1, read), (10, 10 * read), color="#555", label=f"{read:.1f} GB/s")
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axes.legend(once.values(), once.keys(), fontsize="small")
    figure.savefig(path)
