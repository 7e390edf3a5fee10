"""`plan_run`: from a machine, a model and wishes to a plan for serving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kt_cli.core.adapter import Adapter
from kt_cli.core.drift import fingerprint
from kt_cli.core.engine import Case, Engine, Facts
from kt_cli.core.hints import Hints
from kt_cli.core.lookups import tables_decision, with_lookups
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Decision, Fix, Item, Plan, Pool, Problem, Source
from kt_cli.core.units import gb
from kt_cli.core.what_if import completed
from kt_cli.core.wishes import Wishes

if TYPE_CHECKING:
    from kt_cli.options import RunOptions


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
    case = Case(machine, model, wishes, facts, advice, adapter)
    engine, decision, refused = _engine(case)
    plan = _or_another(engine.plan(case, alternatives=alternatives), engine, case)
    disk, full = _disk(machine, model, engine.written(case, plan))
    asides = _asides(case, engine, plan, refused)
    return replace(
        plan,
        decisions=(decision, *plan.decisions, *tables_decision(model, mapped=engine.maps_tables)),
        speed=with_lookups(plan.speed, model, machine.measured),
        pools=(*plan.pools, *disk),
        problems=(*plan.problems, *full, *asides, *_notes(model, advice)),
        fingerprint=fingerprint(machine, model, options),
    )


# Which engine


def _engine(case: Case) -> tuple[Engine, Decision, str]:
    """The one asked for, else the preferred one; and why none before that."""
    engines, wishes = case.facts.engines, case.wishes
    chosen, refused = _preferred(engines, case)
    decision = wishes.settle("engine", "engine", chosen.name, refused or chosen.reason)
    return next(e for e in engines if e.name == decision.value), decision, refused


def _preferred(engines: Sequence[Engine], case: Case) -> tuple[Engine, str]:
    """The first that can serve; where none can, the first that lacks only the model."""
    refused = [(e, e.obstacle(case)) for e in engines]
    able = [engine for engine, obstacle in refused if not obstacle]
    if not able:
        chosen = next((e for e, why in refused if why == e.unknown(case)), engines[-1])
        return chosen, _reasons(refused, chosen)
    first = able[0]
    for other in able[1:]:
        better = first.better(case, other)
        if better:
            return other, better
    return first, _reasons(refused, first)


def _reasons(refused: Sequence[tuple[Engine, str]], chosen: Engine) -> str:
    before = refused[: [engine for engine, _ in refused].index(chosen)]
    return "; ".join(why for _, why in before)


def _or_another(plan: Plan, engine: Engine, case: Case) -> Plan:
    """Where the engine cannot run the model and a later one can, that is a way out."""
    errors = [p for p in plan.problems if p.severity == "error"]
    if not errors or case.wishes.fixed("engine"):
        return plan
    later = case.facts.engines[case.facts.engines.index(engine) + 1 :]
    other = next((e for e in later if e.way_out and e.plan(case).fits), None)
    return _with_way(plan, errors[0], other) if other else plan


def _with_way(plan: Plan, first: Problem, other: Engine) -> Plan:
    way = Fix(other.way_out, "fits", f"--engine {other.name}")
    if any(way.flag == fix.flag for fix in first.fixes):
        return plan
    free, bought = [f for f in first.fixes if f.flag], [f for f in first.fixes if not f.flag]
    mended = replace(first, fixes=(*free, way, *bought))
    return replace(plan, problems=tuple(mended if p is first else p for p in plan.problems))


def _asides(case: Case, engine: Engine, plan: Plan, refused: str) -> Iterator[Problem]:
    unknown = engine.unknown(case)
    if unknown and all(p.why != unknown for p in plan.problems):
        whys = [unknown, *(e.unknown(case) for e in case.facts.engines if e is not engine)]
        what = f"{engine.title} is not known to serve {case.model.name}"
        yield Problem(what, "; ".join(filter(None, whys)))
    elif refused and case.machine.gpus and not unknown and not case.wishes.fixed("engine"):
        cure = case.facts.engines[0].cure(case)
        yield Problem("the GPU is not used", refused, "info", (cure,) if cure else ())


# What every engine shares


def _disk(
    machine: Machine, model: Model, written: tuple[Item, ...]
) -> tuple[tuple[Pool, ...], tuple[Problem, ...]]:
    """Room for the download of a model that is not here, and for what its engine writes."""
    items = list(written)
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


def _notes(model: Model, hints: Hints) -> Iterator[Problem]:
    for note in dict.fromkeys((*model.notes, *hints.notes)):
        yield Problem(note, "", "info")
