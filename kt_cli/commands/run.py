"""`kt run`: plan, show, start, follow."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from kt_cli.commands.attach import Served, serve
from kt_cli.commands.cli import Context, need, takes
from kt_cli.commands.plan import as_json
from kt_cli.commands.planned import Planned, plan_for, with_settings
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.plan import Plan
from kt_cli.core.serial import to_plain
from kt_cli.errors import AuthError, DoesNotFitError, NotFoundError
from kt_cli.options import OUTPUT, RunOptions, opt

AUTO_KEY = "auto"


@dataclass(frozen=True, slots=True)
class RunCommandOptions(RunOptions):
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

    def run(self) -> RunOptions:
        """The part that a plan is made from; paths do not depend on the folder any more."""
        options = RunOptions(**{f.name: getattr(self, f.name) for f in fields(RunOptions)})
        if options.rules is None:
            return options
        return dataclasses.replace(options, rules=str(Path(options.rules).absolute()))


@takes(RunCommandOptions)
def cli(options: RunCommandOptions, ctx: Context) -> None:
    """Serve a model."""
    from kt_cli.engines import embedded

    model = need(ctx, "model", options.model, "Which model?")
    wanted = options.run()
    embedded.refuse_foreign(with_settings(wanted, ctx.settings)[0])
    name = wanted.name or server_name(model)
    key = None if options.dry_run else _before(wanted, ctx, name)
    planned, python = _plan(wanted, ctx, model)
    _show(planned, ctx, options)
    spec = embedded.lower(planned.plan, planned.options, python, with_key=key is not None)
    if options.dry_run:
        _show_command(spec, planned, ctx)
    else:
        _require_fit(planned.plan, planned.options.force)
        _fetch(planned, model, ctx)
        serve(Served(spec, name, key, made=wanted.api_key == AUTO_KEY), ctx, options.detach)


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

    key = options.api_key or os.environ.get("KT_API_KEY", "").strip() or None
    if key == AUTO_KEY:
        return runtime.new_api_key()
    if key is None and not runtime.is_loopback(host):
        raise AuthError(
            f"{host} can be reached from the network, so clients must send an API key",
            "everybody in the network could use the server",
            f"add `--api-key {AUTO_KEY}`, or listen on 127.0.0.1",
        )
    return key


def _plan(wanted: RunOptions, ctx: Context, name: str) -> tuple[Planned, str]:
    from kt_cli import catalog, probe
    from kt_cli.engines import embedded

    machine = embedded.alone(probe.machine(home=ctx.home))
    python = embedded.python_for(machine, sys.executable)
    model = catalog.find(name, ctx.home)
    return plan_for(dataclasses.replace(wanted, model=name), ctx, machine, model), python


def _fetch(planned: Planned, name: str, ctx: Context) -> None:
    """Makes the demo on first use; any other model must be here already."""
    from kt_cli.catalog import demo
    from kt_cli.ui.progress import progress

    path = planned.plan.path
    if path == str(demo.folder_of(ctx.home)):
        with progress(ctx.out, "demo") as show:
            demo.ensure(ctx.home, show)
    elif not path or not Path(path).exists():
        raise NotFoundError(f"{name} is not on this machine", "", f"`kt model pull {name}`")


def _show(planned: Planned, ctx: Context, options: RunCommandOptions) -> None:
    from kt_cli.ui.plan import picture, reasons

    if ctx.out.json_mode:
        if not options.dry_run:
            ctx.out.event("plan", as_json(planned))
        return
    if not ctx.out.quiet or options.dry_run:
        ctx.out.print(*picture(planned.plan), "")
    if options.explain:
        ctx.out.print(*reasons(planned.plan), "")


def _require_fit(plan: Plan, force: bool) -> None:
    """The first problem as the error, its ways out as the fix; `--force` goes on regardless."""
    if plan.fits or force:
        return
    problem = next(p for p in plan.problems if p.severity == "error")
    ways = [f.flag or f.action for f in problem.fixes]
    fix = ", or ".join([*ways, "--force to try it all the same"])
    raise DoesNotFitError(problem.what, problem.why, fix)


def _show_command(spec: LaunchSpec, planned: Planned, ctx: Context) -> None:
    data = {"plan": as_json(planned), "argv": list(spec.argv), "launch": to_plain(spec)}
    ctx.out.result("run", data, shlex.join(spec.argv))
