from __future__ import annotations

import pytest

from tests.golden.make import FOLDER, machines, page

MACHINES = machines()


@pytest.mark.parametrize("name", MACHINES)
def test_plans_are_as_recorded(name: str) -> None:
    """After a change that is meant: `python -m tests.golden.make`, and look at the diff."""
    recorded = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert page(name, MACHINES[name]) == recorded


def test_no_plan_is_kept_of_a_machine_that_is_gone() -> None:
    assert {f.stem for f in FOLDER.glob("*.txt")} == set(MACHINES)
