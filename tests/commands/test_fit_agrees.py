"""Every row of `kt fit` on every preset machine, put into `kt plan`, gives the same verdict."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from kt_cli.catalog.names import lookup
from kt_cli.catalog.presets import load_presets, preset_model
from kt_cli.commands.fit import candidates, row_of, runner
from kt_cli.core.fit import fit_of
from kt_cli.core.plan_run import Origins, plan_run
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from kt_cli.opts import with_flags
from tests.golden.make import machines


def test_fit_and_plan_agree_on_every_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, presets, rows, flags = read_facts(), load_presets(), 0, 0
    wrong: list[str] = []
    for on, machine in machines().items():
        planner = runner(machine, RunOptions(), facts, Origins())
        for candidate in candidates(tmp_path):
            row = row_of(candidate, planner)
            rows += 1
            found = lookup(row.model, presets)
            if found is None:
                wrong.append(f"{on}: no model is called {row.model}")
                continue
            hints = found[0].hints
            if row.flag and "FOLDER" not in row.flag:
                told = with_flags(RunOptions(model=row.model), shlex.split(row.flag))
                mended = plan_run(machine, preset_model(*found), told, facts, hints=hints)
                flags += 1
                if not mended.fits:
                    wrong.append(f"{on}: {row.model} does not fit with {row.flag}")
            made = plan_run(
                machine, preset_model(*found), RunOptions(model=row.model), facts, hints=hints
            )
            again = fit_of(preset_model(*found), made, row.family)
            if (again.runs, again.context, again.method, again.decode) != (
                row.runs, row.context, row.method, row.decode
            ):  # fmt: skip
                wrong.append(f"{on}: {row.model} is {again.runs} {again.method} {again.context}")
    with capsys.disabled():
        print(f"\n{rows} rows of kt fit, {flags} with a flag, {len(wrong)} disagreements")
    assert not wrong, wrong[:5]
    assert rows > 300
