"""Models that a machine may run: those on disk, then those that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kt_cli.core.fit import Fit, best, fit_of
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.errors import KtError
from kt_cli.modelfiles import models_at
from kt_cli.options import RunOptions
from kt_cli.workflow.context import Context
from kt_cli.workflow.facts import hints_for
from kt_cli.workflow.plan import Planner

PlanOne = Callable[["Candidate", Model], Plan]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model with the checkpoints it comes in, the plainest first."""

    family: str
    models: tuple[Model, ...]
    hints: Hints


def runner(ctx: Context, machine: Machine, options: RunOptions) -> PlanOne:
    """Plans candidates for serving, as `kt plan` would."""
    planner = Planner(ctx, machine)
    return lambda candidate, model: (
        planner.plan(options, model, hints=candidate.hints, alternatives=False).plan
    )


def candidates(home: Path) -> Iterator[Candidate]:
    """What is on disk, then every preset that is not."""
    from kt_cli.catalog.presets import planned_presets, preset_model

    local = dict(_local(home))
    yield from local.values()
    for preset in planned_presets():
        repos = {r.rpartition("/")[2].lower() for r in preset.repos.values()}
        if repos & {name.lower() for name in local}:
            continue
        models = [preset_model(preset)]
        for variant in preset.variants:
            try:
                models.append(preset_model(preset, variant))
            except KtError:
                continue
        yield Candidate(preset.family, tuple(models), preset.hints)


def _local(home: Path) -> Iterator[tuple[str, Candidate]]:
    """Folder name → candidate; a folder that cannot be read is no candidate."""
    from kt_cli.catalog import read

    folder = home / "models"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not models_at(path):
            continue
        try:
            model = read(path)
        except KtError:
            continue
        yield path.name, Candidate("local", (model,), hints_for(path.name, model))


def row_of(candidate: Candidate, planner: PlanOne) -> Fit:
    """Of the first checkpoint that runs."""
    rows = []
    for model in candidate.models:
        rows.append(fit_of(model, planner(candidate, model), candidate.family))
        if rows[-1].runs:
            break
    return best(rows)
