"""`kt fit`: every known model on a machine, ranked."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from kt_cli.command import takes
from kt_cli.core.fit import SORTS, Fit, ranked
from kt_cli.core.machine import Machine
from kt_cli.core.plan_sft import plan_sft
from kt_cli.core.serial import to_plain
from kt_cli.core.sft_ledger import SftCase
from kt_cli.engines.facts import read_sft
from kt_cli.options import RunOptions
from kt_cli.opts import opt, parse_count
from kt_cli.ui.fit import SFT_BASIS, fit_table, sft_table
from kt_cli.workflow.candidates import Candidate, PlanOne, candidates, row_of, runner
from kt_cli.workflow.context import Context
from kt_cli.workflow.machines import MachineOptions, machine_for

SUMMARY = "Models ranked for this machine: which run, how fast, how big"

FILTER = "Which and how"


@dataclass(frozen=True, slots=True)
class FitOptions(MachineOptions):
    search: str | None = opt(
        help="Only models whose name or family has this in it", metavar="TEXT", panel=FILTER
    )
    purpose: str | None = opt(
        "--for", help="What the model is for: run it, or fine-tune it with LoRA (run)",
        choices=("run", "sft"), panel=FILTER,
    )  # fmt: skip
    fits: bool = opt("--fits", help="Only models that run", default=False, panel=FILTER)
    local: bool = opt("--local", help="Only models that are here", default=False, panel=FILTER)
    sort: str | None = opt("--sort", help="Order (size)", choices=tuple(SORTS), panel=FILTER)
    ctx_size: int | None = opt(
        "-c", "--ctx-size", help="Context every model must hold, or length of a training sample",
        parse=parse_count, low=1, metavar="TOKENS", panel=FILTER,
    )  # fmt: skip
    csv: bool = opt("--csv", help="Print as CSV", default=False, panel=FILTER)


@takes(FitOptions)
def cli(options: FitOptions, ctx: Context) -> None:
    """Rank the models this machine can run or fine-tune, with memory, speed and download."""
    machine = machine_for(options, ctx.home)
    tuning = options.purpose == "sft"
    asked = RunOptions(ctx_size=options.ctx_size)
    planner = _tuner(machine, options) if tuning else runner(ctx, machine, asked)
    found = [c for c in candidates(ctx.home) if _wanted(c, options)]
    rows = [row_of(c, planner) for c in found]
    rows = [r for r in rows if (r.runs or not options.fits) and (r.local or not options.local)]
    rows = ranked(rows, options.sort or "size")
    if options.csv:
        ctx.out.result("fit", {"text": _csv(rows)}, _csv(rows).rstrip("\n"))
        return
    purpose = options.purpose or "run"
    plain = [to_plain(row) for row in rows]
    basis = {"basis": SFT_BASIS} if tuning else {}
    data = {"machine": machine.name, "for": purpose, **basis, "models": plain}
    ctx.out.result("fit", data, *(sft_table if tuning else fit_table)(rows, machine.name))


def _tuner(machine: Machine, options: FitOptions) -> PlanOne:
    facts = read_sft()
    return lambda _, model: plan_sft(SftCase(machine, model, facts, options.ctx_size))


def _wanted(candidate: Candidate, options: FitOptions) -> bool:
    text = (options.search or "").lower()
    names = (candidate.family, *(m.name for m in candidate.models))
    return any(text in name.lower() for name in names)


def _csv(rows: list[Fit]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["model", "runs", "engine", "method", "context", "decode_low", "decode_high",
         "prefill_low", "prefill_high", "ram_bytes", "vram_bytes", "download_bytes", "missing"]
    )  # fmt: skip
    for r in rows:
        speeds = [x for s in (r.decode, r.prefill) for x in ((s.low, s.high) if s else ("", ""))]
        figures = [f"{x:.1f}" if x != "" else "" for x in speeds]
        writer.writerow([r.model, r.runs, r.engine, r.method, r.context, *figures,
                         r.ram, r.vram, r.download, r.short])  # fmt: skip
    return text.getvalue()
