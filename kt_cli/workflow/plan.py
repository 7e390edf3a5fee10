"""From options to a plan: one way for `plan`, `run`, `fit` and the wizard, so that they agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kt_cli.core.engine import Facts
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Fix, Plan
from kt_cli.core.plan_run import Origins, plan_run
from kt_cli.core.remedy import Replan, remedy
from kt_cli.core.what_if import completed
from kt_cli.engines.facts import read_gpus
from kt_cli.engines.registry import get
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from kt_cli.workflow.context import Context
from kt_cli.workflow.facts import HERE, adapter_of, hints_for, measured_facts, with_packs
from kt_cli.workflow.origins import joined, with_settings


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it was made from."""

    plan: Plan
    machine: Machine
    model: Model
    options: RunOptions
    facts: Facts
    replan: Replan | None = None
    """Plans the same with other options."""

    @property
    def decode_limit(self) -> float | None:
        """Tokens/s of one request that the measured ones are set against: see `Outcome`."""
        decode = self.plan.speed.decode
        if decode is None:
            return None
        return get(self.plan.engine).decode_limit(decode, self.facts)


class Planner:
    """Plans any number of models on one machine: the one way from options to a plan."""

    def __init__(self, ctx: Context, machine: Machine) -> None:
        self._ctx = ctx
        self._machine = machine
        self._whole = completed(machine, read_gpus())
        self._facts = measured_facts(machine, ctx.home)

    def plan(
        self,
        options: RunOptions,
        model: Model,
        said: Origins | None = None,
        hints: Hints | None = None,
        *,
        alternatives: bool = True,
    ) -> Planned:
        """Fills what the settings know, then plans. `said`: who decided fields that are no flags.

        `hints` are looked up by the model's names when they are not given. `alternatives`: other
        formats of the experts are planned beside the one that is taken.
        """
        full, origins = with_settings(options, self._ctx.settings)
        origins = joined(said or Origins(), origins)
        if hints is None:
            hints = hints_for(options.model or "", model) if self._machine.gpus else Hints()
        facts = with_packs(self._facts, self._machine, self._ctx.home, model)
        adapter = adapter_of(full)
        _require_weights(full, self._machine, model)

        def replan(changed: RunOptions) -> Plan:
            return plan_run(
                self._whole,
                model,
                changed,
                facts,
                origins,
                hints,
                adapter,
                alternatives=alternatives,
            )

        return Planned(replan(full), self._machine, model, full, facts, replan)


def plan_for(
    options: RunOptions,
    ctx: Context,
    machine: Machine,
    model: Model,
    said: Origins | None = None,
) -> Planned:
    """As `Planner.plan`; where the model does not fit, its other checkpoints are ways out."""
    planner = Planner(ctx, machine)
    planned = planner.plan(options, model, said)
    if planned.plan.fits:
        return planned
    return replace(planned, plan=with_variants(planned.plan, _variants(options, planner, said)))


def _require_weights(options: RunOptions, machine: Machine, model: Model) -> None:
    """Raises KtError for a folder that does not hold the experts of `model`."""
    if options.weights_path and (machine.source == HERE or Path(options.weights_path).exists()):
        from kt_cli.catalog.expert_weights import require_experts_of

        require_experts_of(Path(options.weights_path), model)


Variants = Iterator[tuple[str, Plan]]


def _variants(options: RunOptions, planner: Planner, said: Origins | None) -> Variants:
    """Other checkpoints of a known model, by the name that `kt plan` takes, with their plans."""
    from kt_cli.catalog.names import lookup
    from kt_cli.catalog.presets import load_presets, preset_model

    name = options.model or ""
    found = lookup(name, load_presets()) if name else None
    if found is None:
        return
    preset, taken = found
    for variant in (v for v in (None, *preset.variants) if v != taken):
        try:
            model = preset_model(preset, variant)
        except KtError:
            continue
        called = f"{preset.name}:{variant.name}" if variant else preset.name
        yield called, planner.plan(replace(options, model=called), model, said).plan


def with_variants(plan: Plan, variants: Variants) -> Plan:
    """Other checkpoints that fit stand first among the first error's ways out."""
    fixes = tuple(
        Fix(f"the checkpoint {name}", "fits", model=name) for name, v in variants if v.fits
    )
    first = next(p for p in plan.problems if p.severity == "error")
    more = replace(first, fixes=(*fixes, *first.fixes))
    return replace(plan, problems=tuple(more if p is first else p for p in plan.problems))


def fitting(planned: Planned) -> RunOptions | None:
    """Options like those asked for with which the model fits, verified by planning: the plan's own
    fixes, or another checkpoint of the model; None where neither helps.

    A checkpoint that fits as it is goes before another format of the experts.
    """
    if planned.plan.fits or planned.replan is None:
        return None
    found = remedy(planned.plan, planned.options, planned.replan)
    if found and found.kt_method == planned.options.kt_method:
        return found
    fixes = (fix for problem in planned.plan.problems for fix in problem.fixes)
    name = next((fix.model for fix in fixes if fix.model), None)
    return replace(planned.options, model=name) if name else found
