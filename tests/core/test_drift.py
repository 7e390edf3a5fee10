from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kt_cli.core.drift import check_drift, plan_from_json, plan_to_json
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.serial import ShapeError
from kt_cli.core.units import GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import machine, small_model

WANTED = RunOptions(model="small", ctx_size=4096)


def plan() -> Plan:
    return plan_run(machine(), small_model(), WANTED, read_facts())


def test_a_plan_survives_json() -> None:
    made = plan()
    assert plan_from_json(json.loads(json.dumps(plan_to_json(made)))) == made


def test_decisions_without_a_value_survive_json() -> None:
    made = plan()
    assert made.value("rules", "absent") is None
    again = plan_from_json(json.loads(json.dumps(plan_to_json(made))))
    assert again.decision("rules").value is None


def test_something_that_is_no_plan_is_refused() -> None:
    with pytest.raises(ShapeError):
        plan_from_json({"model": "x"})


def test_the_same_machine_and_model_have_no_drift() -> None:
    assert check_drift(plan(), machine(), small_model(), WANTED) == ()
    assert check_drift(plan(), machine(), small_model()) == ()


def test_memory_in_use_is_no_drift() -> None:
    assert check_drift(plan(), machine(free=4 * GIB), small_model()) == ()


def test_host_and_port_are_no_drift() -> None:
    moved = replace(WANTED, host="0.0.0.0", port=1234)
    assert check_drift(plan(), machine(), small_model(), moved) == ()


def test_less_ram_is_named() -> None:
    (sentence,) = check_drift(plan(), machine(ram=16 * GIB), small_model())
    assert sentence == "RAM was 25.8 GB, is 17.2 GB"


def test_another_checkpoint_is_named() -> None:
    assert check_drift(plan(), machine(), small_model(layers=29)) == ("the model changed",)


def test_other_flags_are_named() -> None:
    (sentence,) = check_drift(plan(), machine(), small_model(), RunOptions(ctx_size=8192))
    assert "--ctx-size 4096" in sentence
    assert "--ctx-size 8192" in sentence


def test_a_plan_of_another_version_is_refused() -> None:
    old = replace(plan(), version=0)
    assert "version 0" in check_drift(old, machine(), small_model())[0]
