"""From a plan to the command of its engine: the one that is started, and the one that is shown."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kt_cli.core.launch import LaunchSpec
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.what_if import completed
from kt_cli.engines.facts import read_gpus
from kt_cli.engines.registry import engines, get, judged
from kt_cli.engines.serving import Serving, Start
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from kt_cli.workflow.context import Context
from kt_cli.workflow.facts import HERE
from kt_cli.workflow.origins import with_settings
from kt_cli.workflow.plan import Planned

ANY_PYTHON = "python"
"""In commands for another machine, or for an engine that is not installed here."""


def this_machine(home: Path, *, deep: bool = False) -> Machine:
    """As plans see it; `deep` really loads the engines, which takes seconds the first time."""
    from kt_cli import probe

    return completed(judged(probe.machine(home=home, deep=deep)), read_gpus())


def with_engine(machine: Machine, options: RunOptions, ctx: Context) -> Machine:
    """An engine that may be used is really loaded once, so that no plan rests on a broken one.

    Raises EnvironmentBroken when it was asked for and is not there.
    """
    asked = with_settings(options, ctx.settings)[0].engine
    wanted = [e for e in engines() if asked in (None, "auto", e.name)]
    unsure = next((e for e in wanted if e.unsure(machine)), None)
    if unsure:
        ctx.out.note(f"checking that {unsure.title} loads")
        machine = this_machine(ctx.home, deep=True)
    for engine in (e for e in wanted if e.name == asked):
        engine.require(machine)
    return machine


def launch(
    planned: Planned, home: Path, extra: Sequence[str] = (), *, with_key: bool = False
) -> LaunchSpec:
    """What `kt run` starts. Raises EnvironmentBroken without the engine, and KtError for what it
    does not know or lacks."""
    start = Start(
        _placed(planned, home), planned.options, planned.machine, home, tuple(extra), with_key
    )
    return get(planned.plan.engine).launch(start)


def require_extra(planned: Planned, extra: Sequence[str]) -> None:
    """Raises UsageError for flags passed through that the plan's engine does not know."""
    engine = get(planned.plan.engine)
    engine.require_extra(extra, _python_of(engine, planned.machine))


def engine_command(planned: Planned, home: Path, extra: Sequence[str] = ()) -> str:
    """The engine's command as a line for a shell, also where the engine or the model is not."""
    engine, machine = get(planned.plan.engine), planned.machine
    kept = home if machine.source == HERE else None
    plan = _placed(planned, home)
    start = Start(plan, planned.options, machine, kept, tuple(extra), shown=True)
    return shell_line(engine.lower(start, _python_of(engine, machine)))


def shell_line(spec: LaunchSpec) -> str:
    """The environment in front, so that it can be pasted."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in spec.env.items()]
    return " ".join([*settings, shlex.join(spec.argv)])


def _placed(planned: Planned, home: Path) -> Plan:
    """With the folder that `kt model pull` fills, where the model is not here yet."""
    plan = planned.plan
    name = planned.model.repo.rpartition("/")[2] or plan.model
    return plan if plan.path else replace(plan, path=str(home / "models" / name))


def _python_of(engine: Serving, machine: Machine) -> str:
    if machine.source != HERE:
        return ANY_PYTHON
    try:
        return engine.python_for(machine)
    except KtError:
        return ANY_PYTHON
