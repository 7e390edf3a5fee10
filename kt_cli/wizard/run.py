"""The wizard of `run`: asks what is undecided, with the planner's value as the default and its why.

It knows no terminal: `Prompts` ask, a `Planner` plans, `show` paints the picture after a change.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kt_cli.core.plan import Plan, Source
from kt_cli.core.units import tokens
from kt_cli.options import RunOptions
from kt_cli.opts import Opt, parse_flags, specs
from kt_cli.ui.prompts import Choice, Prompts

Planner = Callable[[RunOptions], Plan]
Show = Callable[[Plan], None]


@dataclass(frozen=True, slots=True)
class Question:
    """An option whose default is the value of a decision; its text is the option's own."""

    field: str
    decision: str
    engines: tuple[str, ...] = ()
    """Empty for all that the option means something for."""


QUESTIONS = (
    Question("ctx_size", "context"),
    Question("max_running_requests", "max_running_requests"),
    Question("kt_method", "kt_method", ("sglang",)),
    Question("gpu_experts", "gpu_experts"),
    Question("cpu_threads", "cpu_threads"),
)
STAY = "leave it as it is"
"""The way on from a plan that does not fit when none of its ways out is taken."""


@dataclass(frozen=True, slots=True)
class Completed:
    options: RunOptions
    plan: Plan
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Fields that were answered here."""


def complete(options: RunOptions, planner: Planner, prompts: Prompts, show: Show) -> Completed:
    """Asks every question that is undecided and means something for the plan's engine, then offers
    the ways out of a plan that does not fit."""
    plan = planner(options)
    show(plan)
    sources: dict[str, Source] = {}
    for question in QUESTIONS:
        if not _open(question, options, plan):
            continue
        answer = _ask(question, plan, prompts)
        if answer is None:
            continue
        options = replace(options, **{question.field: answer})
        sources[question.field] = "wizard"
        plan = planner(options)
        show(plan)
    options, plan, changed = with_way_out(options, plan, planner, prompts, show)
    return Completed(options, plan, sources | dict.fromkeys(changed, "wizard"))


def with_way_out(
    options: RunOptions, plan: Plan, planner: Planner, prompts: Prompts, show: Show
) -> tuple[RunOptions, Plan, tuple[str, ...]]:
    """Offers the ways out of a plan that does not fit until one fits; also the fields changed."""
    changed: dict[str, Any] = {}
    while not plan.fits and (ways := ways_out(plan)):
        taken = prompts.choose("It does not fit. What now?", [*ways, Choice(STAY)], ways[0].value)
        if taken == STAY:
            break
        changed |= parse_flags(RunOptions, shlex.split(taken))
        options = replace(options, **changed)
        plan = planner(options)
        show(plan)
    return options, plan, tuple(changed)


def ways_out(plan: Plan) -> list[Choice]:
    """The flags that mend a plan, each with what it gains."""
    fixes = (
        fix for problem in plan.problems if problem.severity == "error" for fix in problem.fixes
    )
    return [Choice(fix.flag, fix.effect or fix.action) for fix in fixes if fix.flag]


def _open(question: Question, options: RunOptions, plan: Plan) -> bool:
    if getattr(options, question.field) is not None or _value(question, plan) is None:
        return False
    served = specs(options)[question.field].serves(plan.engine)
    return served and (not question.engines or plan.engine in question.engines)


def _value(question: Question, plan: Plan) -> Any:
    return plan.value(question.decision)


def _ask(question: Question, plan: Plan, prompts: Prompts) -> Any:
    decision = plan.decision(question.decision)
    spec = specs(RunOptions)[question.field]
    default = decision.value
    shown = tokens(default) if question.field == "ctx_size" else str(default)
    words = f"{decision.why}; {spec.help}" if decision.why else spec.help
    answer: Any
    if spec.choices:
        answer = prompts.choose(spec.ask, [Choice(c) for c in spec.choices], shown, words)
    else:
        answer = prompts.text(spec.ask, shown, words, checker(spec, type(default)))
    return None if answer == default else answer


def checker(spec: Opt, kind: type) -> Callable[[str], Any]:
    """Text to a value of the option; raises ValueError with what is allowed."""

    def check(text: str) -> Any:
        value = spec.parse(text) if spec.parse else kind(text)
        if spec.choices and value not in spec.choices:
            raise ValueError(f"one of {', '.join(spec.choices)}")
        if spec.low is not None and value < spec.low:
            raise ValueError(f"{spec.low:g} or more")
        if spec.high is not None and value > spec.high:
            raise ValueError(f"{spec.high:g} or less")
        return value

    return check
