"""What `kt run` and `kt plan` are asked for: by flags, a plan file, a profile, the wizard."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from kt_cli.core.drift import check_drift
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import Origins
from kt_cli.errors import UsageError
from kt_cli.options import RunOptions
from kt_cli.opts import given, replace_undecided
from kt_cli.workflow.context import Context
from kt_cli.workflow.facts import facts_for
from kt_cli.workflow.models import find_model
from kt_cli.workflow.origins import joined
from kt_cli.workflow.plan import Planned


@dataclass(frozen=True, slots=True)
class Wanted:
    options: RunOptions
    said: Origins = field(default_factory=Origins)
    """Who decided fields that are no flags."""
    plan: Plan | None = None
    """Made earlier and read from a file."""


def wanted(
    options: RunOptions, ctx: Context, machine: Machine, *, profile: str | None, ask: bool = False
) -> Wanted:
    """Flags, then the profile; the wizard for the rest when no model is named, or with `ask`.

    Raises UsageError without a model where nobody can be asked.
    """
    said = Origins()
    if profile:
        from kt_cli.workflow.profiles import with_profile

        options, said = with_profile(options, ctx.home, profile)
    if options.model is not None and not ask:
        return Wanted(options, said)
    _require_somebody(ctx, options)
    from kt_cli.workflow.guide import by_wizard

    options, answered = by_wizard(options, ctx, machine)
    return Wanted(options, joined(answered, said))


def _require_somebody(ctx: Context, options: RunOptions) -> None:
    if ctx.may_ask and not ctx.common.yes:
        return
    if options.model is None:
        raise UsageError("MODEL is missing", "", "give it on the command line")
    raise UsageError("nobody can be asked", "--ask needs a terminal", "give flags instead")


# A plan from a file


def from_file(file: str, options: RunOptions) -> Wanted:
    """The plan with address and names as given beside it; its model unless another is named."""
    from kt_cli.workflow.records import load_plan

    plan = load_plan(Path(file))
    fields = ("host", "port", "served_model_name")
    now = {name: value for name, value in given(options).items() if name in fields}
    decisions = tuple(
        replace(d, value=now[d.name], source="flag") if d.name in now else d for d in plan.decisions
    )
    address = {name: plan.value(name) for name in fields}
    here = plan.path and Path(plan.path).exists()
    kept = {"model": plan.path if here else plan.model, **address}
    full = replace_undecided(options, {k: v for k, v in kept.items() if v is not None})
    return Wanted(full, plan=replace(plan, decisions=decisions))


def replayed(asked: Wanted, plan: Plan, ctx: Context, machine: Machine) -> Planned:
    """Raises UsageError that names all that is no longer as the plan has it."""
    model = find_model(asked.options.model or "", ctx)
    drift = check_drift(plan, machine, model, asked.options)
    if drift:
        fix = f"plan anew: `kt plan {asked.options.model} --out FILE`"
        raise UsageError("the plan does not hold any more", "; ".join(drift), fix)
    return Planned(plan, machine, model, asked.options, facts_for(machine, ctx.home, model))
