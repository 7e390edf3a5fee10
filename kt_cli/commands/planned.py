"""From options to a plan: shared by `plan`, `run`, `fit` and the wizard, so that they agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kt_cli.commands.cli import Context
from kt_cli.core.adapter import Adapter
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Fix, Plan, Source
from kt_cli.core.plan_run import Facts, Origins, plan_run
from kt_cli.core.remedy import Replan, remedy
from kt_cli.core.what_if import completed
from kt_cli.engines.facts import read_facts, read_gpus
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from kt_cli.opts import given, replace_undecided, specs
from kt_cli.settings import Settings

HERE = "this machine"
"""`Machine.source` of the machine that kt runs on."""


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
        if self.plan.engine == "embedded":
            return decode.high / self.facts.embedded.decode_efficiency[1]
        return (decode.low + decode.high) / 2 / (self.facts.sglang.pace or 1.0)


def plan_for(
    options: RunOptions,
    ctx: Context,
    machine: Machine,
    model: Model,
    said: Origins | None = None,
) -> Planned:
    """Fills what the settings know, then plans. `said`: who decided fields that are no flags."""
    full, origins = with_settings(options, ctx.settings)
    origins = joined(said or Origins(), origins)
    whole = completed(machine, read_gpus())
    hints = hints_for(options.model or "", model) if machine.gpus else Hints()
    facts = facts_for(machine, ctx.home, model)
    adapter = adapter_of(full)
    if full.weights_path and (machine.source == HERE or Path(full.weights_path).exists()):
        from kt_cli.catalog.expert_weights import require_experts_of

        require_experts_of(Path(full.weights_path), model)

    def replan(changed: RunOptions) -> Plan:
        return plan_run(whole, model, changed, facts, origins, hints, adapter)

    plan = replan(full)
    if not plan.fits:
        plan = with_variants(plan, _variants(full, whole, facts, origins))
    return Planned(plan, machine, model, full, facts, replan)


Variants = Iterator[tuple[str, Plan]]


def _variants(options: RunOptions, machine: Machine, facts: Facts, origins: Origins) -> Variants:
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
        hints = preset.hints if machine.gpus else Hints()
        asked = replace(options, model=called)
        yield called, plan_run(machine, model, asked, facts, origins, hints)


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


def adapter_of(options: RunOptions) -> Adapter | None:
    """Raises NotFoundError or KtError for a folder that holds none."""
    if options.lora is None:
        return None
    from kt_cli.catalog.adapters import read_adapter

    return read_adapter(options.lora)


def facts_for(machine: Machine, home: Path, model: Model | None = None) -> Facts:
    """On this machine, what was measured here corrects the preset, and packs of the model count."""
    facts = read_facts()
    if machine.source != HERE:
        return facts
    from kt_cli.commands.records import outcomes
    from kt_cli.core.calibrate import calibrated, calibrated_sglang

    seen = outcomes(home)
    known = calibrated(facts.embedded, seen)
    ours = replace(known, packed=_packed(home, model, known.methods))
    return replace(facts, embedded=ours, sglang=calibrated_sglang(facts.sglang, seen))


def _packed(
    home: Path, model: Model | None, methods: Iterable[str]
) -> Mapping[str, tuple[int, int]]:
    """Method → (layers, bytes) of the model's experts that are packed already."""
    from kt_cli.weights.packs import Shelf, folder_of

    if model is None or not model.path:
        return {}
    pack = Shelf(folder_of(home)).fitting(Path(model.path))
    return {name: pack.layers(name.lower()) for name in methods} if pack else {}


def hints_for(name: str, model: Model) -> Hints:
    """A preset's advice, by what was typed, the repository or the folder's name; else none."""
    from kt_cli.catalog.names import lookup
    from kt_cli.catalog.presets import load_presets

    names = (name, model.repo, model.name, Path(model.path).name)
    presets = load_presets()
    for known in names:
        chosen = lookup(known, presets) if known else None
        if chosen:
            return chosen[0].hints
    return Hints()


def with_settings(options: RunOptions, settings: Settings) -> tuple[RunOptions, Origins]:
    """Undecided fields from the environment and the configuration, and who decided each."""
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    words: dict[str, str] = {}
    taken = given(options)
    for name, spec in specs(RunOptions).items():
        if not spec.setting or name in taken:
            continue
        found = settings.get(spec.setting)
        if found.origin == "default" or found.value is None:
            continue
        values[name], words[name] = found.value, found.origin
        sources[name] = "environment" if found.origin.startswith("KT_") else "config"
    return replace_undecided(options, values), Origins(sources, words)


def joined(first: Origins, second: Origins) -> Origins:
    """Origins of two fillings; the first wins."""
    sources: Mapping[str, Source] = {**second.sources, **first.sources}
    return Origins(sources, {**second.words, **first.words})
