"""`kt plan`: where every byte of a model would go, how fast it would be, and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from kt_cli.command import takes
from kt_cli.core.drift import plan_to_json
from kt_cli.core.serial import to_plain
from kt_cli.errors import DoesNotFitError, UsageError
from kt_cli.options import OUTPUT, RunOptions
from kt_cli.opts import opt, parse_path, shown_argv
from kt_cli.ui.plan import picture, reasons
from kt_cli.workflow.context import Context
from kt_cli.workflow.launch import require_extra
from kt_cli.workflow.llama_flags import LlamaFlags, refuse_llama
from kt_cli.workflow.machines import MachineOptions, machine_for
from kt_cli.workflow.models import find_model
from kt_cli.workflow.plan import Planned, fitting, plan_for
from kt_cli.workflow.resolve import wanted

SUMMARY = "Memory, speed and reasons for a model, before loading it"


@dataclass(frozen=True, slots=True)
class PlanOptions(RunOptions, MachineOptions, LlamaFlags):
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
        parse=parse_path,
        metavar="FILE",
        panel=OUTPUT,
    )

    def run(self) -> RunOptions:
        """What `kt run` would be told."""
        return RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})


@takes(PlanOptions, passes=True)
def cli(options: PlanOptions, ctx: Context) -> None:
    """Show memory, speed, reasons and the exact command for a model, without loading it.

    Flags of SGLang may follow MODEL, as with `kt run`.
    """
    refuse_llama(options)
    if (options.model or "").startswith("-"):
        why = "flags of SGLang follow MODEL"
        raise UsageError(f"MODEL is missing before {options.model}", "", why)
    machine = machine_for(options, ctx.home)
    if options.check:
        from kt_cli.workflow.check import before_servers, check

        machine = before_servers(machine, ctx.home)
    asked = wanted(options.run(), ctx, machine, profile=options.profile)
    model = find_model(asked.options.model or "", ctx)
    planned = plan_for(asked.options, ctx, machine, model, asked.said)
    require_extra(planned, ctx.extra)
    if options.check:
        check(planned, ctx)
        return
    if options.out:
        from kt_cli.workflow.records import save_plan

        save_plan(Path(options.out), planned.plan)
        ctx.out.note(f"wrote {options.out}")
    show(planned, ctx, options.explain)
    if not (planned.plan.fits or options.force):
        raise typer.Exit(DoesNotFitError.exit_code)


def show(planned: Planned, ctx: Context, explain: bool) -> None:
    lines = [*picture(planned.plan), *(reasons(planned.plan) if explain else ())]
    lines += ["", *_last(planned, ctx)]
    if not (explain or ctx.out.json_mode):
        ctx.out.result("plan", {}, *lines)
        return
    from kt_cli.workflow.launch import engine_command

    engine = engine_command(planned, ctx.home, ctx.extra)
    shown = ["", engine] if planned.plan.fits else []
    ctx.out.result("plan", as_json(planned, engine, ctx.extra), *lines, *shown)


def _last(planned: Planned, ctx: Context) -> list[str]:
    """The command that starts the plan; where it does not fit, one that does, if there is any."""
    if planned.plan.fits:
        return [kt_command(planned.options, ctx.extra)]
    found = fitting(planned)
    if found is None:
        return ["no change of its options makes it fit here"]
    return ["as asked it does not fit; this does:", kt_command(found, ctx.extra)]


def as_json(planned: Planned, engine: str, extra: Sequence[str] = ()) -> dict[str, Any]:
    """`engine`: the engine's own command. `fitting` stands where the plan itself does not fit."""
    plan = planned.plan
    fixes = [to_plain(fix) for problem in plan.problems for fix in problem.fixes]
    commands = {"run": kt_command(planned.options, extra), "command": engine}
    if not plan.fits:
        found = fitting(planned)
        commands |= {"fitting": kt_command(found, extra)} if found else {}
    return {**plan_to_json(plan), "fits": plan.fits, "fixes": fixes, **commands}


def kt_command(options: RunOptions, extra: Sequence[str] = ()) -> str:
    return shlex.join(["kt", "run", *shown_argv(options), *extra])
