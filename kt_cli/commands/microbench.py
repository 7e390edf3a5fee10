"""`kt microbench`: this machine's limits, and how close the expert kernels come to them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from kt_cli.bench import micro, roofline, roofline_png
from kt_cli.bench.micro import Case, Report
from kt_cli.bench.micro_launch import Note, Wanted, measure
from kt_cli.bench.micro_machine import available_memory, facts, last_level_cache
from kt_cli.bench.micro_report import HEADINGS, as_csv, as_data, cells, titles
from kt_cli.command import takes
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.opts import opt, parse_ids, parse_output, parse_path
from kt_cli.ui import table
from kt_cli.workflow.context import Context

SUMMARY = "Expert kernels against the limits of this CPU"


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    unknown = [n for n in names if n not in micro.FORMATS]
    if unknown or not names:
        raise ValueError(f"{text!r} is not a list of {', '.join(micro.FORMATS)}")
    return names


def _tokens(text: str) -> tuple[int, ...]:
    counts = parse_ids(text)
    if not counts or min(counts) < 1:
        raise ValueError(f"{text!r} is not a list of token counts such as 1,32,512")
    return counts


def _shape(text: str) -> str:
    return micro.parse_shape(text).name


@dataclass(frozen=True, slots=True)
class MicrobenchOptions:
    format: tuple[str, ...] | None = opt(
        "--format",
        help=f"Weight formats, of {', '.join(micro.FORMATS)}; default: the first three",
        parse=_formats,
        metavar="LIST",
    )
    shape: str | None = opt(
        "--shape",
        help="qwen3-30b-a3b (default), deepseek-v3, or E,K,H,I: experts, per token, hidden, "
        "intermediate",
        parse=_shape,
        metavar="SHAPE",
    )
    tokens: tuple[int, ...] | None = opt(
        "--tokens",
        help=f"Tokens per call; default: {','.join(map(str, micro.TOKENS))}",
        parse=_tokens,
        metavar="LIST",
    )
    threads: int | None = opt("--threads", help="Threads; default: one per core", low=1, high=256)
    peer: str | None = opt(
        "--peer", help="Measure another library side by side", choices=micro.PEERS
    )
    peer_python: str | None = opt(
        "--peer-python",
        help="Python in whose environment the peer is installed",
        parse=parse_path,
        metavar="FILE",
    )
    backward: bool = opt("--backward", help="Also measure the backward pass", default=False)
    seconds: float = opt(
        "--seconds", help="Least time per measurement", default=0.5, low=0.01, high=60
    )
    csv: str | None = opt(
        "--csv",
        help="Write the rows as CSV; `-` prints them instead of the table",
        parse=parse_output,
        metavar="FILE",
    )
    plot: str | None = opt(
        "--plot",
        help="Write a roofline plot: .svg, or .png with matplotlib",
        parse=parse_path,
        metavar="FILE",
    )


BUSY = (
    "calls were faster than the limits that were measured: the machine was busy with something else"
)


@takes(MicrobenchOptions)
def cli(options: MicrobenchOptions, ctx: Context) -> None:
    """Measure the expert kernels against the limits of this machine."""
    csv, plot = _target(options.csv), _target(options.plot)
    _can_plot(plot)
    report = measure(_wanted(options, ctx.out.note), facts(), ctx.out.note)
    if csv:
        csv.write_text(as_csv(report), encoding="utf-8")
    if plot:
        _write_plot(report, plot)
    for skipped in report.skipped:
        ctx.out.note(f"{skipped.engine} {skipped.format}: {skipped.why}")
    if report.beyond_limit:
        ctx.out.warn(BUSY)
    shown = [*titles(report), table(HEADINGS, cells(report), report.rows[0].shape.described)]
    human = [as_csv(report).rstrip("\n")] if options.csv == "-" else shown
    ctx.out.result("microbench", as_data(report), *human)


def _wanted(options: MicrobenchOptions, note: Note) -> Wanted:
    wish = micro.parse_shape(options.shape or "qwen3-30b-a3b")
    cache = last_level_cache()
    shape = micro.fitted(wish, available_memory())
    if shape.experts < wish.experts:
        note(f"{shape.experts} of {wish.experts} experts are measured: more do not fit in memory")
    passes = (False, True) if options.backward else (False,)
    cases = [
        Case(format, shape, tokens, micro.layers_beyond_cache(shape, format, cache), backward)
        for format in options.format or micro.USUAL
        for backward in passes
        for tokens in options.tokens or micro.TOKENS
    ]
    return Wanted(
        cases,
        options.threads or 0,
        options.seconds,
        cache,
        (options.peer,) if options.peer else (),
        options.peer_python or sys.executable,
    )


def _target(name: str | None) -> Path | None:
    """A file to write, whose folder is there: known before anything is measured."""
    if name is None or name == "-":
        return None
    path = Path(name).expanduser()
    if not path.parent.is_dir():
        raise NotFoundError(f"cannot write {path}", f"there is no folder {path.parent}")
    return path


def _can_plot(path: Path | None) -> None:
    if path and path.suffix not in (".svg", ".png"):
        raise UsageError(f"cannot plot to {path}", "its name ends neither with .svg nor .png")
    if path and path.suffix == ".png":
        roofline_png.require(path)


def _write_plot(report: Report, path: Path) -> None:
    if path.suffix == ".png":
        roofline_png.write(report, path)
        return
    path.write_text(roofline.svg(report), encoding="utf-8")
