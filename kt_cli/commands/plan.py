"""`kt plan`: where every byte of a model would go, how fast it would be, and why."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from kt_cli.commands.cli import Context, need, takes
from kt_cli.commands.machines import MachineOptions, machine_for
from kt_cli.commands.planned import Planned, joined, plan_for
from kt_cli.core.drift import plan_to_json
from kt_cli.core.machine import Machine
from kt_cli.core.plan_run import Origins
from kt_cli.core.serial import to_plain
from kt_cli.errors import DoesNotFitError
from kt_cli.options import OUTPUT, RunOptions, opt, to_argv
from kt_cli.ui.plan import picture, reasons


@dataclass(frozen=True, slots=True)
class PlanOptions(RunOptions, MachineOptions):
    explain: bool = opt(
        "--explain", help="Show every decision and formula", default=False, panel=OUTPUT
    )
    profile: str | None = opt(
        "--profile", help="Take undecided options from a saved profile", metavar="NAME"
    )
    check: bool = opt(
        "--check",
        help="Compare the plan with the running server, or with the last load",
        default=False,
        panel=OUTPUT,
    )
    out: str | None = opt(
        "--out",
        help="Write the plan to a file for `kt run --plan`",
        metavar="FILE",
        panel=OUTPUT,
    )

    def run(self) -> RunOptions:
        """What `kt run` would be told."""
        return RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})


@takes(PlanOptions)
def cli(options: PlanOptions, ctx: Context) -> None:
    """Show memory, speed, reasons and the exact command for a model, without loading it."""
    from kt_cli import catalog

    machine = machine_for(options, ctx.home)
    wanted, said = _asked(options, ctx, machine)
    model = catalog.find(need(ctx, "model", wanted.model), ctx.home)
    planned = plan_for(wanted, ctx, machine, model, said)
    if options.check:
        from kt_cli.commands.check import check

        check(planned, ctx)
        return
    if options.out:
        from kt_cli.commands.records import save_plan

        save_plan(Path(options.out), planned.plan)
        ctx.out.note(f"wrote {options.out}")
    show(planned, ctx, options.explain)
    if not (planned.plan.fits or options.force):
        raise typer.Exit(DoesNotFitError.exit_code)


def _asked(options: PlanOptions, ctx: Context, machine: Machine) -> tuple[RunOptions, Origins]:
    """Flags, then the profile; on a terminal the wizard for what is left when no model is named."""
    wanted, said = options.run(), Origins()
    if options.profile:
        from kt_cli.commands.profiles import with_profile

        wanted, said = with_profile(wanted, ctx.home, options.profile)
    if wanted.model is None and ctx.may_ask:
        from kt_cli.commands.ask import by_wizard

        wanted, answered = by_wizard(wanted, ctx, machine)
        said = joined(answered, said)
    return wanted, said


def show(planned: Planned, ctx: Context, explain: bool) -> None:
    plan = planned.plan
    human = [*picture(plan), *(reasons(plan) if explain else ()), "", command(planned.options)]
    ctx.out.result("plan", as_json(planned), *human)


def as_json(planned: Planned) -> dict[str, Any]:
    plan = planned.plan
    fixes = [to_plain(fix) for problem in plan.problems for fix in problem.fixes]
    extra = {"fits": plan.fits, "fixes": fixes, "command": command(planned.options)}
    return {**plan_to_json(plan), **extra}


def command(options: RunOptions) -> str:
    return shlex.join(["kt", "run", *to_argv(options)])
