"""`kt plan --check`: a plan against the server that runs it, or against the last one that did."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kt_cli.core.engine_report import EngineReport, planned_uses
from kt_cli.core.engine_report import report as compared
from kt_cli.core.history import Cache, Outcome, compare, expected_now, expected_vram
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.serial import to_plain
from kt_cli.engines.registry import get
from kt_cli.errors import KtError, NotReadyError
from kt_cli.ui.plan import comparison
from kt_cli.workflow.context import Context
from kt_cli.workflow.plan import Planned
from kt_cli.workflow.records import outcomes, save_outcome

if TYPE_CHECKING:
    from kt_cli.runtime import Server


def check(planned: Planned, ctx: Context) -> None:
    """Measures a running server of this model and keeps the outcome; else shows the last one."""
    plan = planned.plan
    outcome = measured(planned, ctx.home)
    if outcome:
        _keep(ctx, outcome)
    else:
        outcome = last(plan, ctx.home)
    lines = compare(plan, outcome)
    data = {
        "model": plan.model,
        "outcome": to_plain(outcome),
        "lines": [to_plain(x) for x in lines],
    }
    told = [*comparison(plan.model, outcome.date, lines), *outcome.report.lines()]
    ctx.out.result("check", data, *told)
    _judge(plan, outcome.report, ctx)


def _judge(plan: Plan, report: EngineReport, ctx: Context) -> None:
    """Ends with an error where the server does not run as it was planned.

    A server that was started with other flags than these is no error: a note tells.
    """
    if report.differences:
        raise typer.Exit(KtError.exit_code)
    chosen = {n: v for n, v in planned_uses(plan).items() if n not in _FROM_FREE_MEMORY}
    for other in compared(report.uses, chosen).differences:
        ctx.out.note(f"the server was started with another plan: {other}")


_FROM_FREE_MEMORY = ("kv_tokens",)
"""Planned anew they may come out smaller: the server holds memory."""


def before_servers(machine: Machine, home: Path) -> Machine:
    """The machine as it was planned for: without what its servers hold on the GPUs."""
    from kt_cli import runtime
    from kt_cli.probe.held import gpu_memory
    from kt_cli.probe.host import Host

    pids = {pid for s in runtime.servers(home) for pid in runtime.processes(s)}
    return freed(machine, gpu_memory(pids, Host()) or 0 if pids else 0)


def freed(machine: Machine, taken: int) -> Machine:
    """`taken` bytes are free again, spread over the GPUs."""
    share = taken // max(1, len(machine.gpus))
    gpus = (replace(g, free=min(g.memory, g.free + share)) for g in machine.gpus)
    return replace(machine, gpus=tuple(gpus))


def remember(planned: Planned, ctx: Context, name: str) -> None:
    """Keeps what a server takes that has just become ready; a note where that is impossible."""
    from kt_cli import runtime

    try:
        outcome = outcome_of(planned, runtime.find(ctx.home, name))
        for difference in outcome.report.differences:
            ctx.out.note(f"{name} differs from its plan: {difference}")
        save_outcome(ctx.home, outcome)
    except (OSError, KtError) as error:
        ctx.out.note(f"what it takes could not be written down: {error}")


def _keep(ctx: Context, outcome: Outcome) -> None:
    """The measurement is shown also where the disk refuses it."""
    try:
        save_outcome(ctx.home, outcome)
    except (OSError, KtError) as error:
        ctx.out.note(f"the measurement could not be kept: {error}")


def measured(planned: Planned, home: Path) -> Outcome | None:
    from kt_cli import runtime

    plan = planned.plan
    names = {plan.model, str(plan.value("served_model_name") or plan.model)}
    live = [s for s in runtime.servers(home) if s.state == "ready" and s.model in names]
    return outcome_of(planned, live[0]) if live else None


def outcome_of(planned: Planned, server: Server) -> Outcome:
    from kt_cli import runtime
    from kt_cli.probe.held import held
    from kt_cli.probe.host import Host

    plan = planned.plan
    on_gpu = any(pool.name.startswith("GPU") for pool in plan.pools)
    usage = runtime.usage(server)
    alone = usage.load.running == 1
    cache = cache_of(planned, usage.load.kv_used)
    now = held(runtime.processes(server), Host())
    engine = get(plan.engine)
    late = engine.late(on_gpu=on_gpu, used=bool(usage.load.kv_used))
    return Outcome(
        model=plan.model,
        engine=plan.engine,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        expected=expected_now(plan, cache),
        resident=now.anonymous + (now.shared if engine.shares_memory else now.weights),
        kv_used=usage.load.kv_used,
        vram=now.gpu,
        expected_vram=expected_vram(plan, cache),
        idle=expected_now(plan, cache, late) if late else None,
        idle_vram=expected_vram(plan, cache, late) if late else None,
        ready_s=server.ready_s,
        decode=usage.load.tokens_s if alone else None,
        decode_limit=planned.decode_limit,
        base=engine.base(planned.facts, on_gpu=on_gpu),
        context=engine.context(planned.facts) if on_gpu else None,
        gpus=sum(pool.name.startswith("GPU") for pool in plan.pools) or 1,
        report=usage.load.report,
    )


def last(plan: Plan, home: Path) -> Outcome:
    for outcome in outcomes(home):
        if outcome.model == plan.model and outcome.engine == plan.engine:
            return outcome
    fix = f"start it with `kt run {plan.model} -d`, then check again"
    raise NotReadyError(f"{plan.model} was never measured here", "no server runs it", fix)


def cache_of(planned: Planned, kv_used: int | None) -> Cache | None:
    """The cache's shape in memory; None where the server does not tell what is used."""
    if kv_used is None:
        return None
    a = planned.model.attention
    heads = a.heads if a.kind == "mla" else a.kv_heads
    segments = 2 * heads * max(1, planned.model.layers)
    pooled = get(planned.plan.engine).pools(planned.facts, planned.model.architecture)
    return Cache(kv_used, segments, planned.machine.memory.hugepages == "always", pooled)
