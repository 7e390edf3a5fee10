"""From a plan to the command of its engine: the one that is started, and the one that is shown."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kt_cli.core.launch import LaunchSpec
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.what_if import completed
from kt_cli.engines import embedded, sglang
from kt_cli.engines.facts import read_gpus
from kt_cli.errors import KtError, UsageError
from kt_cli.options import RunOptions
from kt_cli.workflow.context import Context
from kt_cli.workflow.facts import HERE
from kt_cli.workflow.origins import with_settings
from kt_cli.workflow.plan import Planned

UNCHECKED = "unchecked"
"""In `Engine.details` of an engine that was found but not loaded; see `probe.stack`."""
ANY_PYTHON = "python"
"""In commands for another machine, or for an engine that is not installed here."""


def this_machine(home: Path, *, deep: bool = False) -> Machine:
    """As plans see it; `deep` really loads the engines, which takes seconds the first time."""
    from kt_cli import probe

    return completed(sglang.judged(probe.machine(home=home, deep=deep)), read_gpus())


def with_engine(machine: Machine, options: RunOptions, ctx: Context) -> Machine:
    """An SGLang that may be used is really loaded once, so that no plan rests on a broken one.

    Raises EnvironmentBroken when it was asked for and is not there.
    """
    asked = with_settings(options, ctx.settings)[0].engine
    unsure = any(e.name == sglang.NAME and UNCHECKED in e.details for e in machine.engines)
    if unsure and machine.gpus and asked != "embedded":
        ctx.out.note("checking that SGLang loads")
        machine = this_machine(ctx.home, deep=True)
    if asked == sglang.NAME:
        sglang.installed(machine)
    return machine


def launch(
    planned: Planned, home: Path, extra: Sequence[str] = (), *, with_key: bool = False
) -> LaunchSpec:
    """What `kt run` starts. Raises EnvironmentBroken without the engine, UsageError for flags that
    it does not know, and KtError where the experts' weights must be converted first."""
    plan, machine, options = _placed(planned, home), planned.machine, planned.options
    if plan.engine != sglang.NAME:
        refuse_extra(extra)
        embedded.refuse_foreign(options)
        python = embedded.python_for(machine, sys.executable)
        return embedded.lower(plan, options, python, home=home.absolute(), with_key=with_key)
    python = sglang.installed(machine).python
    _require_known(extra, python)
    _require_converted(plan)
    managed = python != sys.executable
    return sglang.lower(
        plan, options, python, machine, extra=extra, managed=managed, with_key=with_key
    )


def require_extra(planned: Planned, extra: Sequence[str]) -> None:
    """Raises UsageError for flags passed through that the plan's engine does not know."""
    if planned.plan.engine != sglang.NAME:
        refuse_extra(extra)
    else:
        _require_known(extra, _python_of_sglang(planned))


def engine_command(planned: Planned, home: Path, extra: Sequence[str] = ()) -> str:
    """The engine's command as a line for a shell, also where the engine or the model is not."""
    plan = _placed(planned, home)
    if plan.engine == sglang.NAME:
        python = _python_of_sglang(planned)
        spec = sglang.lower(plan, planned.options, python, planned.machine, extra=extra)
    else:
        kept = home.absolute() if planned.machine.source == HERE else None
        spec = embedded.lower(plan, planned.options, _python_of_embedded(planned), home=kept)
    return shell_line(spec)


def shell_line(spec: LaunchSpec) -> str:
    """The environment in front, so that it can be pasted."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in spec.env.items()]
    return " ".join([*settings, shlex.join(spec.argv)])


def _placed(planned: Planned, home: Path) -> Plan:
    """With the folder that `kt model pull` fills, where the model is not here yet."""
    plan = planned.plan
    name = planned.model.repo.rpartition("/")[2] or plan.model
    return plan if plan.path else replace(plan, path=str(home / "models" / name))


def _python_of_sglang(planned: Planned) -> str:
    if planned.machine.source != HERE:
        return ANY_PYTHON
    try:
        return sglang.installed(planned.machine).python
    except KtError:
        return ANY_PYTHON


def _python_of_embedded(planned: Planned) -> str:
    if planned.machine.source != HERE:
        return ANY_PYTHON
    try:
        return embedded.python_for(planned.machine, sys.executable)
    except KtError:
        return ANY_PYTHON


def _require_converted(plan: Plan) -> None:
    if sglang.needs_conversion(plan):
        method = plan.value("kt_method")
        raise KtError(
            f"the CPU experts are not there as {method}",
            f"{method} does not read the checkpoint itself",
            "give the folder of converted weights by `--weights-path`, or choose a `--kt-method` "
            "that reads the checkpoint; `kt plan` names them",
        )


# Flags that are passed through


def refuse_extra(extra: Sequence[str]) -> None:
    """Raises UsageError that names the first word that only SGLang might understand."""
    if extra:
        why = "it is no option of kt, and the embedded engine takes no flags of SGLang"
        raise UsageError(f"no such option: {extra[0]}", why, _close(extra[0]))


def _close(word: str) -> str:
    import difflib

    from kt_cli.options import CommonOptions, RunOptions
    from kt_cli.opts import specs

    known = [f for cls in (RunOptions, CommonOptions) for s in specs(cls).values() for f in s.flags]
    close = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"did you mean `{close[0]}`?" if close else "see `kt run --help`"


def _require_known(extra: Sequence[str], python: str) -> None:
    """Raises UsageError for a word before any flag, and for flags its source does not have."""
    if extra and not extra[0].startswith("-"):
        raise UsageError(f"{extra[0]} is one argument too many", "", "see `kt run --help`")
    known = _flags_of(python)
    strange = [
        w for w in extra if w.startswith("--") and known and w.partition("=")[0] not in known
    ]
    if strange:
        raise UsageError(
            f"no such option: {strange[0]}", "neither kt nor SGLang knows it", _close(strange[0])
        )


def _flags_of(python: str) -> frozenset[str]:
    """Read from SGLang's source, for its parser takes many seconds to load; empty if not found."""
    packages = Path(python).parent.parent.glob("lib/python3*/site-packages/sglang/srt")
    for folder in packages:
        files = [folder / "server_args.py", *folder.glob("arg_groups/**/*.py")]
        texts = (f.read_text(encoding="utf-8") for f in files if f.is_file())
        return frozenset(flag for text in texts for flag in _FLAG.findall(text))
    return frozenset()


_FLAG = re.compile(r'"(--[a-z][a-z0-9-]*)"')
