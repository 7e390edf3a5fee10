"""`kt fit`: every known model on a machine, ranked."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli.commands.cli import Context, takes
from kt_cli.commands.machines import MachineOptions, machine_for
from kt_cli.commands.planned import with_settings
from kt_cli.core.fit import SORTS, Fit, best, fit_of, ranked
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import Facts, Origins, plan_run
from kt_cli.core.plan_sft import plan_sft
from kt_cli.core.serial import to_plain
from kt_cli.core.sft_ledger import SftCase
from kt_cli.engines.facts import read_facts, read_sft
from kt_cli.errors import KtError
from kt_cli.modelfiles import models_at
from kt_cli.options import RunOptions
from kt_cli.opts import opt, parse_count
from kt_cli.ui.fit import SFT_BASIS, fit_table, sft_table

FILTER = "Which and how"
Planner = Callable[["Candidate", Model], Plan]


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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model with the checkpoints it comes in, the plainest first."""

    family: str
    models: tuple[Model, ...]
    hints: Hints


@takes(FitOptions)
def cli(options: FitOptions, ctx: Context) -> None:
    """Rank the models this machine can run or fine-tune, with memory, speed and download."""
    machine = machine_for(options, ctx.home)
    tuning = options.purpose == "sft"
    planner = _tuner(machine, options) if tuning else _runner(machine, options, ctx)
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


def runner(machine: Machine, options: RunOptions, facts: Facts, origins: Origins) -> Planner:
    return lambda c, model: plan_run(
        machine, model, options, facts, origins, c.hints, alternatives=False
    )


def _runner(machine: Machine, options: FitOptions, ctx: Context) -> Planner:
    full, origins = with_settings(RunOptions(ctx_size=options.ctx_size), ctx.settings)
    return runner(machine, full, read_facts(), origins)


def _tuner(machine: Machine, options: FitOptions) -> Planner:
    facts = read_sft()
    return lambda _, model: plan_sft(SftCase(machine, model, facts, options.ctx_size))


def candidates(home: Path) -> Iterator[Candidate]:
    """What is on disk, then every preset that is not."""
    from kt_cli.catalog.presets import planned_presets, preset_model

    local = dict(_local(home))
    yield from local.values()
    for preset in planned_presets():
        repos = {r.rpartition("/")[2].lower() for r in preset.repos.values()}
        if repos & {name.lower() for name in local}:
            continue
        models = [preset_model(preset)]
        for variant in preset.variants:
            try:
                models.append(preset_model(preset, variant))
            except KtError:
                continue
        yield Candidate(preset.family, tuple(models), preset.hints)


def _local(home: Path) -> Iterator[tuple[str, Candidate]]:
    """Folder name → candidate; a folder that cannot be read is no candidate."""
    from kt_cli.catalog import read
    from kt_cli.commands.planned import hints_for

    folder = home / "models"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not models_at(path):
            continue
        try:
            model = read(path)
        except KtError:
            continue
        yield path.name, Candidate("local", (model,), hints_for(path.name, model))


def _wanted(candidate: Candidate, options: FitOptions) -> bool:
    text = (options.search or "").lower()
    names = (candidate.family, *(m.name for m in candidate.models))
    return any(text in name.lower() for name in names)


def row_of(candidate: Candidate, planner: Planner) -> Fit:
    """Of the first checkpoint that runs."""
    rows = []
    for model in candidate.models:
        rows.append(fit_of(model, planner(candidate, model), candidate.family))
        if rows[-1].runs:
            break
    return best(rows)


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
