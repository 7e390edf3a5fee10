"""Every row of `kt fit` on every preset machine, put into `kt plan`, gives the same verdict."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kt_cli.catalog.names import lookup
from kt_cli.catalog.presets import load_presets, preset_model
from kt_cli.command import context
from kt_cli.core.fit import fit_of
from kt_cli.options import CommonOptions, RunOptions
from kt_cli.opts import with_flags
from kt_cli.workflow.candidates import candidates, row_of, runner
from kt_cli.workflow.plan import Planner
from tests.golden.make import machines


def test_fit_and_plan_agree_on_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    ctx, presets, rows, flags = context(CommonOptions()), load_presets(), 0, 0
    wrong: list[str] = []
    for on, machine in machines().items():
        plan_one, planner = runner(ctx, machine, RunOptions()), Planner(ctx, machine)
        for candidate in candidates(tmp_path):
            row = row_of(candidate, plan_one)
            rows += 1
            found = lookup(row.model, presets)
            if found is None:
                wrong.append(f"{on}: no model is called {row.model}")
                continue
            model, asked = preset_model(*found), RunOptions(model=row.model)
            if row.flag and "FOLDER" not in row.flag:
                told = with_flags(asked, shlex.split(row.flag))
                flags += 1
                if not planner.plan(told, model).plan.fits:
                    wrong.append(f"{on}: {row.model} does not fit with {row.flag}")
            again = fit_of(model, planner.plan(asked, model).plan, row.family)
            if (again.runs, again.context, again.method, again.decode) != (
                row.runs, row.context, row.method, row.decode
            ):  # fmt: skip
                wrong.append(f"{on}: {row.model} is {again.runs} {again.method} {again.context}")
    with capsys.disabled():
        print(f"\n{rows} rows of kt fit, {flags} with a flag, {len(wrong)} disagreements")
    assert not wrong, wrong[:5]
    assert rows > 300
