"""`plan_run`: from a machine, a model and wishes to a plan for serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kt_cli.core.adapter import Adapter
from kt_cli.core.drift import fingerprint
from kt_cli.core.embedded_ledger import Case
from kt_cli.core.facts import EmbeddedFacts, SglangFacts
from kt_cli.core.hints import Hints
from kt_cli.core.lookups import tables_decision, with_lookups
from kt_cli.core.machine import Machine
from kt_cli.core.methods import cpu_expert_bytes, nvidia
from kt_cli.core.model import Model
from kt_cli.core.packing import disk_item
from kt_cli.core.plan import Decision, Fix, Item, Plan, Pool, Problem, Source
from kt_cli.core.plan_embedded import plan_embedded
from kt_cli.core.plan_sglang import plan_sglang
from kt_cli.core.sglang_choice import SglangCase, starting
from kt_cli.core.sglang_draft import methods, no_method
from kt_cli.core.sglang_solve import target_context
from kt_cli.core.units import gb
from kt_cli.core.what_if import completed
from kt_cli.core.wishes import Wishes

if TYPE_CHECKING:
    from kt_cli.options import RunOptions


@dataclass(frozen=True, slots=True)
class Facts:
    """What the engines need and can do."""

    embedded: EmbeddedFacts
    sglang: SglangFacts


@dataclass(frozen=True, slots=True)
class Origins:
    """Who decided the fields of the options, where it was not a flag."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


def plan_run(
    machine: Machine,
    model: Model,
    options: RunOptions,
    facts: Facts,
    origins: Origins | None = None,
    hints: Hints | None = None,
    adapter: Adapter | None = None,
    *,
    alternatives: bool = True,
) -> Plan:
    """Every value in `options` is a constraint; the rest is solved around it.

    `alternatives`: other formats of the experts are planned too, to be shown.
    """
    said, advice = origins or Origins(), hints or Hints()
    machine = completed(machine, ())
    wishes = Wishes(options, said.sources, said.words)
    case = SglangCase(machine, model, wishes, facts.sglang, advice, adapter)
    other = Case(machine, model, wishes, facts.embedded)
    engine, asides = _engine(case, other)
    if engine.value == "sglang":
        plan = _or_embedded(plan_sglang(case, alternatives=alternatives), other)
    else:
        plan = plan_embedded(other)
    disk, full = _disk(machine, model, plan, _converted(case, plan))
    return replace(
        plan,
        decisions=(engine, *plan.decisions, *tables_decision(model, plan.engine)),
        speed=with_lookups(plan.speed, model, machine.measured),
        pools=(*plan.pools, *disk),
        problems=(*plan.problems, *full, *asides, *_notes(model, advice)),
        fingerprint=fingerprint(machine, model, options),
    )


# Which engine


def _engine(case: SglangCase, other: Case) -> tuple[Decision, tuple[Problem, ...]]:
    """SGLang where it is installed, has a GPU and knows the model; else the embedded engine.

    A model that neither has is sized for SGLang, which would keep it as it is stored.
    """
    wishes = case.wishes
    why, absent = _no_sglang(case), starting(case.facts.absent, case.model.architecture)
    nowhere = starting(other.facts.absent, case.model.architecture)
    if absent and why == absent and nowhere:
        why = ""
    why = why or ("" if absent else _better_embedded(case, other))
    name = "embedded" if why else "sglang"
    decision = wishes.settle("engine", "engine", name, why or "SGLang uses the GPU for the rest")
    if decision.value == "sglang" and absent:
        what = f"SGLang is not known to serve {case.model.name}"
        return decision, (Problem(what, "; ".join(filter(None, (absent, nowhere)))),)
    if wishes.fixed("engine") or not why or not case.machine.gpus:
        return decision, ()
    install = Fix("`kt engine install sglang`", "uses the GPU")
    fixes = (install,) if "installed" in why else ()
    aside = Problem("the GPU is not used", why, "info", fixes)
    return decision, (aside,)


def _no_sglang(case: SglangCase) -> str:
    """Why SGLang is not the engine, empty when it is."""
    machine = case.machine
    installed = (e for e in machine.engines if e.name == "sglang")
    engine = min(installed, key=lambda e: bool(e.problem), default=None)
    if not machine.gpus:
        return "no GPU; it serves on any machine"
    if not nvidia(machine):
        vendors = ", ".join(sorted({g.vendor for g in machine.gpus}))
        return f"SGLang with CPU experts runs on NVIDIA GPUs only, not on {vendors}"
    if engine is None:
        return "SGLang is not installed"
    if engine.problem:
        return f"SGLang does not load: {engine.problem}"
    return starting(case.facts.absent, case.model.architecture)


def _better_embedded(case: SglangCase, other: Case) -> str:
    """Why the embedded engine serves a model better whose experts SGLang computes on GPUs only."""
    if methods(case, nvidia(case.machine)) != [""] or not case.model.experts:
        return ""
    plan = plan_sglang(case)
    if plan.fits and plan.value("context") >= target_context(case):
        return ""
    return no_method(case) if plan_embedded(other).fits else ""


def _or_embedded(plan: Plan, other: Case) -> Plan:
    """Where SGLang cannot run the model and the embedded engine can, that is a way out."""
    errors = [p for p in plan.problems if p.severity == "error"]
    if not errors or other.wishes.fixed("engine") or not plan_embedded(other).fits:
        return plan
    first, way = errors[0], Fix("the embedded engine, all on the CPU", "fits", "--engine embedded")
    if any(way.flag == fix.flag for fix in first.fixes):
        return plan
    free, bought = [f for f in first.fixes if f.flag], [f for f in first.fixes if not f.flag]
    mended = replace(first, fixes=(*free, way, *bought))
    return replace(plan, problems=tuple(mended if p is first else p for p in plan.problems))


# What every engine shares


def _disk(
    machine: Machine, model: Model, plan: Plan, converted: Item | None
) -> tuple[tuple[Pool, ...], tuple[Problem, ...]]:
    """Room for the download of a model that is not here, for converted or packed experts."""
    packs = disk_item(plan.value("pack_cache"), plan.pools)
    items = [item for item in (converted, packs) if item]
    if not model.path:
        items = [Item("download", model.total_bytes, "the checkpoint's files"), *items]
    if not items or not machine.disks:
        return (), ()
    disk = machine.disks[0]
    pool = Pool("disk", disk.total, disk.free, tuple(items), 0, disk.path)
    if pool.left >= 0:
        return (pool,), ()
    fix = Fix(f"free {gb(-pool.left)} on {disk.path}", "fits")
    taken = ", ".join(f"{item.name} {gb(item.bytes)}" for item in items)
    why = f"{taken}; {gb(disk.free)} is free"
    return (pool,), (Problem(f"the disk is too small by {gb(-pool.left)}", why, fixes=(fix,)),)


def _converted(case: SglangCase, plan: Plan) -> Item | None:
    """Experts that must be written before SGLang can start."""
    method = case.method(str(plan.value("kt_method"))) if plan.engine == "sglang" else None
    if not method or not case.model.experts or case.wishes.fixed("weights_path"):
        return None
    if case.model.quantization.method in method.reads:
        return None
    return Item("conversion", cpu_expert_bytes(method, case.model), f"the experts as {method.name}")


def _notes(model: Model, hints: Hints) -> Iterator[Problem]:
    for note in dict.fromkeys((*model.notes, *hints.notes)):
        yield Problem(note, "", "info")
