from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from kt_cli.opts import to_argv
from kt_cli.ui.prompts import Choice
from kt_cli.wizard import complete
from kt_cli.wizard.run import STAY
from tests.core.builders import machine, small_model

FACTS = read_facts()


class Script:
    """Answers in order; keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, str]] = []

    def text(self, question: str, default: str, help: str, check: Callable[[str], Any]) -> Any:
        self.asked.append((question, default, help))
        answer = self.answers.pop(0) if self.answers else ""
        return check(answer) if answer else None

    def choose(self, question: str, choices: Sequence[Choice], default: str, help: str = "") -> str:
        self.asked.append((question, default, help))
        answer = self.answers.pop(0) if self.answers else default
        assert answer in [choice.value for choice in choices]
        return answer

    def confirm(self, question: str, default: bool = False) -> bool:
        raise AssertionError(question)

    def clear(self) -> None:
        """Nothing is painted."""


def planner(options: RunOptions) -> Plan:
    return plan_run(machine(cores=8), small_model(), options, FACTS)


def test_asks_only_what_is_undecided() -> None:
    script = Script()
    complete(RunOptions(model="small", ctx_size=1000), planner, script, lambda plan: None)
    questions = [question for question, _, _ in script.asked]
    assert not any("conversation" in q for q in questions)
    assert any("requests" in q for q in questions)


def test_the_default_is_the_planners_value_with_its_why() -> None:
    script = Script()
    complete(RunOptions(model="small"), planner, script, lambda plan: None)
    _, default, why = script.asked[0]
    assert default == "8k"
    assert "8192" in why


def test_taking_every_default_changes_nothing() -> None:
    wanted = RunOptions(model="small")
    found = complete(wanted, planner, Script(), lambda plan: None)
    assert found.options == wanted
    assert found.sources == {}


def test_an_answer_is_a_constraint_and_its_source_is_the_wizard() -> None:
    found = complete(RunOptions(model="small"), planner, Script("2k"), lambda plan: None)
    assert found.options.ctx_size == 2048
    assert found.sources == {"ctx_size": "wizard"}
    assert found.plan.value("context") == 2048
    assert to_argv(found.options) == ["small", "--ctx-size", "2048"]


def test_the_picture_is_painted_anew_after_a_change_only() -> None:
    painted: list[Plan] = []
    complete(RunOptions(model="small"), planner, Script("2k"), painted.append)
    assert len(painted) == 2
    assert painted[0].pools != painted[1].pools


def test_an_answer_that_is_not_allowed_is_refused_with_the_bounds() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        complete(RunOptions(model="small"), planner, Script("0"), lambda plan: None)


def test_questions_of_another_engine_are_not_asked() -> None:
    script = Script()
    complete(RunOptions(model="small"), planner, script, lambda plan: None)
    assert not any("GPU" in question for question, _, _ in script.asked)


def tight(options: RunOptions) -> Plan:
    return plan_run(machine(cores=8, ram=3_000_000_000), small_model(), options, FACTS)


def test_a_plan_that_does_not_fit_offers_its_ways_out_until_one_fits() -> None:
    wanted = RunOptions(model="small", ctx_size=8192, max_running_requests=4, cpu_threads=1)
    before = tight(wanted)
    assert not before.fits
    script = Script()
    found = complete(wanted, tight, script, lambda plan: None)
    assert script.asked and all("What now?" in question for question, _, _ in script.asked)
    assert found.plan.fits and found.options != wanted
    assert set(found.sources.values()) == {"wizard"}
    assert complete(wanted, tight, Script(STAY), lambda plan: None).options == wanted
