"""`kt engine`: environments with everything that an engine needs, apart from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kt_cli.command import NoOptions, takes
from kt_cli.core.environment import Installed
from kt_cli.engines.environments import EnvironmentSpec, spec_of, specs
from kt_cli.errors import EnvironmentBroken, NotFoundError, UsageError
from kt_cli.opts import opt
from kt_cli.runtime import environments
from kt_cli.ui import human_bytes, table
from kt_cli.workflow.context import Context, need
from kt_cli.workflow.engine_setup import Offer, install_engine, lock_of, offer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kt_cli.runtime.engine_verify import Check

SUMMARY = "Engines in their own environments: install, verify, remove"

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Engines in environments of their own: list, install, remove, verify",
)
SIGNS = {"ok": "ok", "failed": "FAILED", "unable": "not checked"}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    name: str | None = opt(help="sglang, llamafactory or embedded", metavar="NAME")


@cli.command("list")
@takes(NoOptions)
def list_(options: NoOptions, ctx: Context) -> None:
    """List the engines that can have an environment, and which ones have."""
    rows = [_row(spec, ctx.home) for spec in specs()]
    shown = [[r["name"], r["state"], r["size_text"], r["purpose"]] for r in rows]
    for row in rows:
        del row["size_text"]
    ctx.out.result("engine.list", {"engines": rows}, table(["engine", "state", "size>", ""], shown))


@cli.command("install")
@takes(EngineOptions)
def install(options: EngineOptions, ctx: Context) -> None:
    """Build an engine's environment, or go on where a build was interrupted."""
    spec = _spec(options, ctx)
    asked = offer(spec, ctx.home)
    if asked.ready:
        _say_installed(spec, asked, ctx)
        return
    if not ctx.confirm(asked.question):
        raise UsageError("nothing was installed", asked.text, "add --yes to confirm")
    install_engine(asked, ctx.home, ctx.out)
    _say_installed(spec, offer(spec, ctx.home), ctx)
    _verify(spec, ctx)


@cli.command("verify")
@takes(EngineOptions)
def verify(options: EngineOptions, ctx: Context) -> None:
    """Import an engine and run its kernels, in its environment."""
    spec = _spec(options, ctx)
    _present(spec, ctx.home)
    _verify(spec, ctx)


@cli.command("remove")
@takes(EngineOptions)
def remove(options: EngineOptions, ctx: Context) -> None:
    """Remove an engine's environment."""
    from kt_cli import runtime

    spec = _spec(options, ctx)
    folder = environments.folder_of(ctx.home, spec.name)
    if not folder.exists():
        raise NotFoundError(f"{spec.name} is not installed", f"there is no {folder}")
    users = [s.name for s in runtime.servers(ctx.home) if s.live and s.engine == spec.name]
    if users:
        why = f"it runs {', '.join(users)}"
        raise UsageError(f"{spec.name} is in use", why, f"`kt stop {users[0]}` first")
    if not ctx.confirm(f"Remove {folder}?"):
        raise UsageError("nothing was removed", f"this removes {folder}", "add --yes to confirm")
    size = environments.remove(ctx.home, spec.name)
    data = {"name": spec.name, "path": str(folder), "bytes": size}
    ctx.out.result("engine.remove", data, f"{spec.name} is removed: {human_bytes(size)} came free")


@cli.command("path")
@takes(EngineOptions)
def path(options: EngineOptions, ctx: Context) -> None:
    """Print the folder of an engine's environment."""
    spec = _spec(options, ctx)
    folder = _present(spec, ctx.home)
    python = str(environments.python_of(folder))
    data = {"name": spec.name, "path": str(folder), "python": python}
    ctx.out.result("engine.path", data, str(folder))


def _spec(options: EngineOptions, ctx: Context) -> EnvironmentSpec:
    return spec_of(need(ctx, "name", options.name, "Which engine?"))


def _present(spec: EnvironmentSpec, home: Path) -> Path:
    """Raises NotFoundError without an environment, EnvironmentBroken for half of one."""
    folder = environments.folder_of(home, spec.name)
    fix = f"`kt engine install {spec.name}`"
    if not environments.python_of(folder).exists():
        raise NotFoundError(f"{spec.name} is not installed", f"there is nothing in {folder}", fix)
    state = environments.installed(home, spec.name)
    if state is not None and not state.complete:
        raise EnvironmentBroken(f"{spec.name} is half installed", str(folder), f"{fix} goes on")
    return folder


def _row(spec: EnvironmentSpec, home: Path) -> dict[str, Any]:
    folder = environments.folder_of(home, spec.name)
    state = environments.installed(home, spec.name)
    size = state.bytes if state else 0
    text = human_bytes(size) if size else f"takes {human_bytes(spec.disk)}"
    return {
        "name": spec.name,
        "purpose": spec.purpose,
        "state": _state(spec, folder, state),
        "path": str(folder) if folder.exists() else None,
        "python": state.python if state else None,
        "bytes": size or None,
        "size_text": text,
    }


def _state(spec: EnvironmentSpec, folder: Path, state: Installed | None) -> str:
    if state is None:
        return "made by hand" if environments.python_of(folder).exists() else "not installed"
    if not state.complete:
        return "unfinished"
    return "installed" if state.lock == lock_of(spec, state.python).digest else "out of date"


def _say_installed(spec: EnvironmentSpec, made: Offer, ctx: Context) -> None:
    folder = environments.folder_of(ctx.home, spec.name)
    state = environments.installed(ctx.home, spec.name)
    size = state.bytes if state else 0
    data = {"name": spec.name, "path": str(folder), "bytes": size, "packages": made.packages}
    ctx.out.event("engine.installed", data, f"{spec.name} is in {folder} ({human_bytes(size)})")


def _verify(spec: EnvironmentSpec, ctx: Context) -> None:
    """Raises EnvironmentBroken that names what failed."""
    from kt_cli.runtime.engine_verify import verify

    ctx.out.note(f"checking {spec.name}: imports and kernels")
    folder = environments.folder_of(ctx.home, spec.name)
    checks = verify(folder, spec.name)
    missing = environments.lacking(folder, _wanted(spec, ctx.home))
    data = {"name": spec.name, "checks": checks, "missing": [p.name for p in missing]}
    ctx.out.result("engine.verify", data, _table(checks))
    failed = [f"{c.check}: {c.detail}" for c in checks if c.state == "failed"]
    failed += [f"{p.name} {p.version} is missing" for p in missing]
    if failed:
        fix = f"`kt engine remove {spec.name}`, then `kt engine install {spec.name}`"
        raise EnvironmentBroken(f"{spec.name} does not work here", "; ".join(failed), fix)


def _wanted(spec: EnvironmentSpec, home: Path) -> Sequence[environments.Wanted]:
    state = environments.installed(home, spec.name)
    if state is None or spec.resolve:
        return ()
    packages = lock_of(spec, state.python).packages
    return [environments.Wanted(p.name, p.version, p.bytes) for p in packages]


def _table(checks: Sequence[Check]) -> RenderableType:
    rows = [[c.check, SIGNS[c.state], c.detail] for c in checks]
    return table(["check", "", ""], rows)
