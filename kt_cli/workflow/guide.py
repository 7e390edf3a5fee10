"""The wizard on a terminal: for `kt run` and `kt plan` without a model, or with `--ask`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial

from kt_cli.core.fit import Fit
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import Origins
from kt_cli.core.units import tokens
from kt_cli.errors import UsageError
from kt_cli.options import RunOptions
from kt_cli.opts import shown_argv
from kt_cli.ui import human_bytes
from kt_cli.ui.plan import picture
from kt_cli.ui.prompts import Choice, Prompts
from kt_cli.wizard import complete
from kt_cli.workflow import profiles
from kt_cli.workflow.candidates import candidates, row_of, runner
from kt_cli.workflow.context import Context
from kt_cli.workflow.models import find_model
from kt_cli.workflow.plan import plan_for


def by_wizard(options: RunOptions, ctx: Context, machine: Machine) -> tuple[RunOptions, Origins]:
    """Options completed by answers, and which of them are answers; prints the same command.

    Raises UsageError without a terminal.
    """
    if not ctx.may_ask:
        raise UsageError("MODEL is missing", "", "give it on the command line")
    prompts = ctx.prompts
    if options.model is None:
        options = replace(options, model=_model(ctx, machine, prompts))
    model, show = find_model(options.model or "", ctx), partial(_show, ctx=ctx, prompts=prompts)
    found = complete(options, lambda o: plan_for(o, ctx, machine, model).plan, prompts, show)
    ctx.out.note("")
    ctx.out.note("the same again: " + shlex.join(["kt", "run", *shown_argv(found.options)]))
    _save(found.options, ctx, prompts)
    return found.options, Origins(found.sources)


def _show(plan: Plan, ctx: Context, prompts: Prompts) -> None:
    """On a full terminal the picture stays in its place, above the questions."""
    prompts.clear()
    for line in picture(plan):
        ctx.out.note(str(line))
    ctx.out.note("")


def _model(ctx: Context, machine: Machine, prompts: Prompts) -> str:
    """A choice among those that run here, the demo first, models on disk before others."""
    plan_one = runner(ctx, machine, RunOptions())
    rows = [row_of(c, plan_one) for c in candidates(ctx.home)]
    running = sorted((r for r in rows if r.runs), key=lambda r: (not r.local, -r.parameters))
    choices = [Choice("demo", "a small one that is made here")]
    choices += [Choice(r.model, _about(r)) for r in running if r.model != "demo"]
    words = "a model that is not here yet is offered for download"
    return prompts.choose("Which model?", choices, "demo", words)


def _about(row: Fit) -> str:
    where = "here" if row.local else f"{human_bytes(row.download)} to fetch"
    return f"{row.method}, context {tokens(row.context)}, {where}"


def _save(options: RunOptions, ctx: Context, prompts: Prompts) -> None:
    """Asked last; Enter saves nothing."""
    words = "`kt run --profile NAME` then takes these options"
    name = prompts.text("Save these options as a profile? A name, or Enter for no", "", words, str)
    if name:
        path = profiles.save(ctx.home, name, options)
        ctx.out.note(f"saved in {path}; use it with `--profile {name}`")
