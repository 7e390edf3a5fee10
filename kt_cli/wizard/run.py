"""The wizard of `run`: asks what is undecided, with the planner's value as the default and its why.

It knows no terminal: an `Asker` asks, a `Planner` plans, `show` paints the picture after a change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kt_cli.core.plan import Plan, Source
from kt_cli.core.units import tokens
from kt_cli.options import RunOptions
from kt_cli.opts import Opt, specs

Planner = Callable[[RunOptions], Plan]
Show = Callable[[Plan], None]


class Asker(Protocol):
    """Asks one question and gives a checked answer; None means the default."""

    def ask(self, question: str, default: str, why: str, check: Callable[[str], Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Question:
    field: str
    decision: str
    text: str
    engines: tuple[str, ...] = ("embedded", "sglang")


QUESTIONS = (
    Question("ctx_size", "context", "How long may a conversation be (tokens)?"),
    Question("max_running_requests", "max_running_requests", "How many requests at once?"),
    Question("kt_method", "kt_method", "Which format for the experts on the CPU?", ("sglang",)),
    Question("gpu_experts", "gpu_experts", "How many experts of a layer on the GPU?", ("sglang",)),
    Question("cpu_threads", "cpu_threads", "How many CPU threads?"),
)


@dataclass(frozen=True, slots=True)
class Completed:
    options: RunOptions
    plan: Plan
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Fields that were answered here."""


def complete(options: RunOptions, planner: Planner, asker: Asker, show: Show) -> Completed:
    """Asks every question that is undecided and means something for the plan's engine."""
    plan = planner(options)
    show(plan)
    sources: dict[str, Source] = {}
    for question in QUESTIONS:
        if not _open(question, options, plan):
            continue
        answer = _ask(question, plan, asker)
        if answer is None:
            continue
        options = replace(options, **{question.field: answer})
        sources[question.field] = "wizard"
        plan = planner(options)
        show(plan)
    return Completed(options, plan, sources)


def _open(question: Question, options: RunOptions, plan: Plan) -> bool:
    undecided = getattr(options, question.field) is None
    return undecided and plan.engine in question.engines and _value(question, plan) is not None


def _value(question: Question, plan: Plan) -> Any:
    return plan.value(question.decision)


def _ask(question: Question, plan: Plan, asker: Asker) -> Any:
    decision = plan.decision(question.decision)
    spec = specs(RunOptions)[question.field]
    default = decision.value
    shown = tokens(default) if question.field == "ctx_size" else str(default)
    answer = asker.ask(question.text, shown, decision.why, checker(spec, type(default)))
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
