"""`kt run`: plan, show, start, follow."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

import typer

from kt_cli import environment
from kt_cli.command import takes
from kt_cli.commands.plan import as_json, kt_command
from kt_cli.core.hosts import is_loopback
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.serial import to_plain
from kt_cli.errors import AuthError, DoesNotFitError, NotFoundError, UsageError
from kt_cli.options import OUTPUT, RunOptions
from kt_cli.opts import opt, parse_path
from kt_cli.ui import human_bytes
from kt_cli.workflow.check import remember
from kt_cli.workflow.context import Context
from kt_cli.workflow.follow import Served, serve
from kt_cli.workflow.launch import (
    engine_command,
    launch,
    shell_line,
    this_machine,
    with_engine,
)
from kt_cli.workflow.llama_flags import LlamaFlags, refuse_llama
from kt_cli.workflow.models import find_model
from kt_cli.workflow.origins import with_settings
from kt_cli.workflow.plan import Planned, fitting, plan_for
from kt_cli.workflow.resolve import Wanted, from_file, replayed, wanted

SUMMARY = "Serve a model"

AUTO_KEY = "auto"


@dataclass(frozen=True, slots=True)
class RunCommandOptions(RunOptions, LlamaFlags):
    """What `kt run` itself is told, besides what the plan is told."""

    detach: bool = opt(
        "-d", "--detach", help="Return when the server is ready", default=False, panel=OUTPUT
    )
    dry_run: bool = opt(
        "--dry-run", help="Plan, print the command and stop", default=False, panel=OUTPUT
    )
    explain: bool = opt(
        "--explain", help="Show every decision and formula", default=False, panel=OUTPUT
    )

    profile: str | None = opt(
        "--profile", help="Take undecided options from a saved profile", metavar="NAME"
    )
    plan: str | None = opt(
        "--plan",
        help="Start what `kt plan --out FILE` wrote",
        parse=parse_path,
        metavar="FILE",
        panel=OUTPUT,
    )
    ask: bool = opt("--ask", help="Ask for what is undecided", default=False, panel=OUTPUT)

    def run(self) -> RunOptions:
        """The part that a plan is made from."""
        return RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})


def run(options: RunCommandOptions, ctx: Context) -> None:
    """Serve a model. Flags of SGLang may follow MODEL."""
    refuse_llama(options)
    asked = _asked(options, ctx)
    wanted, model = asked.options, asked.options.model or ""
    if model.startswith("-"):
        raise UsageError(f"MODEL is missing before {model}", "", "flags of SGLang follow MODEL")
    name = wanted.name or server_name(model)
    key = None if options.dry_run else _before(wanted, ctx, name)
    planned = _plan(asked, ctx, install=not options.dry_run)
    planned = planned if options.dry_run else _mended(planned, asked, ctx)
    _show(planned, ctx, options)
    spec = launch(planned, ctx.home, ctx.extra, with_key=key is not None)
    if options.dry_run:
        _show_command(spec, planned, ctx)
        if not (planned.plan.fits or planned.options.force):
            raise typer.Exit(DoesNotFitError.exit_code)
    else:
        _require_fit(planned)
        _fetch(planned, model, ctx)
        served = Served(spec, name, key, made=wanted.api_key == AUTO_KEY)
        serve(served, ctx, options.detach, lambda: remember(planned, ctx, name))


cli = takes(RunCommandOptions, passes=True)(run)


def _asked(options: RunCommandOptions, ctx: Context) -> Wanted:
    if options.plan:
        return from_file(options.plan, options.run())
    machine = this_machine(ctx.home)
    return wanted(options.run(), ctx, machine, profile=options.profile, ask=options.ask)


def server_name(model: str) -> str:
    """A name for `kt ps` from a model's name, repository or folder."""
    last = model.rstrip("/").rpartition("/")[2] or model
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:64] or "model"


def _before(wanted: RunOptions, ctx: Context, name: str) -> str | None:
    """What can fail early fails before anything is fetched or loaded; gives the API key."""
    from kt_cli import runtime

    full, _ = with_settings(wanted, ctx.settings)
    host = full.host or ctx.settings.get("server.host").value
    key = _api_key(full, host)
    runtime.check_name(ctx.home, name)
    runtime.check_port(ctx.home, host, full.port or ctx.settings.get("server.port").value)
    return key


def _api_key(options: RunOptions, host: str) -> str | None:
    from kt_cli import runtime

    key = environment.api_key(options.api_key) or None
    if key == AUTO_KEY:
        return runtime.new_api_key()
    if key is None and not is_loopback(host):
        raise AuthError(
            f"{host} can be reached from the network, so clients must send an API key",
            "everybody in the network could use the server",
            f"add `--api-key {AUTO_KEY}`, or listen on 127.0.0.1",
        )
    return key


def _plan(asked: Wanted, ctx: Context, *, install: bool) -> Planned:
    """`install`: an engine that the plan would take may be installed first, if the user agrees."""
    machine = this_machine(ctx.home)
    if asked.plan:
        return replayed(asked, asked.plan, ctx, with_engine(machine, asked.options, ctx))
    model = find_model(asked.options.model or "", ctx)
    if install and _install_sglang(asked, ctx, machine, model):
        machine = this_machine(ctx.home)
    machine = with_engine(machine, asked.options, ctx)
    return plan_for(asked.options, ctx, machine, model, asked.said)


def _install_sglang(asked: Wanted, ctx: Context, machine: Machine, model: Model) -> bool:
    """Offers SGLang where the model would use the GPU through it; the demo needs none."""
    from kt_cli.catalog import demo
    from kt_cli.workflow.engine_setup import install_engine, missing_sglang, offer

    if model.path == str(demo.folder_of(ctx.home)):
        return False
    spec = missing_sglang(
        machine, lambda there: plan_for(asked.options, ctx, there, model, asked.said).plan
    )
    if spec is None:
        return False
    made = offer(spec, ctx.home)
    if not ctx.confirm(f"SGLang would serve this on the GPU and is not here. {made.question}"):
        return False
    install_engine(made, ctx.home, ctx.out)
    return True


def _mended(planned: Planned, asked: Wanted, ctx: Context) -> Planned:
    """Where a plan does not fit, somebody at a terminal chooses among its ways out."""
    from kt_cli.wizard import with_way_out

    if planned.plan.fits or planned.options.force or not ctx.may_ask or asked.plan:
        return planned

    def plan(options: RunOptions) -> Plan:
        nonlocal planned
        planned = plan_for(options, ctx, planned.machine, planned.model, asked.said)
        return planned.plan

    _picture(planned, ctx)
    with_way_out(asked.options, planned.plan, plan, ctx.prompts, lambda _: _picture(planned, ctx))
    return planned


def _fetch(planned: Planned, name: str, ctx: Context) -> None:
    """Makes the demo on first use; any other model that is not here is offered for download."""
    from kt_cli.catalog import demo
    from kt_cli.ui.progress import progress

    path, model = planned.plan.path, planned.model
    if path == str(demo.folder_of(ctx.home)):
        with progress(ctx.out, "demo") as show:
            demo.ensure(ctx.home, show)
    elif not path or not Path(path).exists():
        what = f"{name} is not on this machine"
        if not ctx.confirm(f"{what}. Fetch it ({human_bytes(model.total_bytes)})?"):
            raise NotFoundError(what, "", f"`kt model pull {name}`")
        from kt_cli.commands.model_pull import fetch

        fetch(name, ctx)


def _show(planned: Planned, ctx: Context, options: RunCommandOptions) -> None:
    from kt_cli.ui.plan import reasons

    if ctx.out.json_mode:
        if not options.dry_run:
            engine = engine_command(planned, ctx.home, ctx.extra)
            ctx.out.event("plan", as_json(planned, engine, ctx.extra))
        return
    if not ctx.out.quiet or options.dry_run:
        _picture(planned, ctx)
    if options.explain:
        ctx.out.print(*reasons(planned.plan), "")


def _picture(planned: Planned, ctx: Context) -> None:
    from kt_cli.ui.plan import picture

    ctx.out.print(*picture(planned.plan), "")


def _require_fit(planned: Planned) -> None:
    """The first problem as the error; as its fix a command that fits, else the problem's ways out.
    `--force` goes on regardless."""
    if planned.plan.fits or planned.options.force:
        return
    problem = next(p for p in planned.plan.problems if p.severity == "error")
    found = fitting(planned)
    ways = [f"`{kt_command(found)}`"] if found else [f.flag or f.action for f in problem.fixes]
    fix = ", or ".join([*ways, "--force to try it all the same"])
    raise DoesNotFitError(problem.what, problem.why, fix)


def _show_command(spec: LaunchSpec, planned: Planned, ctx: Context) -> None:
    line = shell_line(spec)
    data = {"plan": as_json(planned, line), "argv": list(spec.argv), "launch": to_plain(spec)}
    ctx.out.result("run", data, line)
