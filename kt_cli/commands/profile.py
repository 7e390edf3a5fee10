"""`kt profile`: the named sets of options that the wizard saves."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import typer

from kt_cli.command import NoOptions, takes
from kt_cli.core.serial import to_plain
from kt_cli.errors import UsageError
from kt_cli.opts import given, opt, shown_argv
from kt_cli.workflow import profiles
from kt_cli.workflow.context import Context, need

SUMMARY = "Saved options of `kt run`"

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Saved options of `kt run`",
)


@dataclass(frozen=True, slots=True)
class NameOptions:
    name: str | None = opt(help="Profile", metavar="NAME", ask="Which profile?")


@cli.command("list")
@takes(NoOptions)
def list_(options: NoOptions, ctx: Context) -> None:
    """Show every profile with its command."""
    found = {name: _command(ctx, name) for name in profiles.names(ctx.home)}
    width = max(map(len, found), default=0)
    lines = [f"{name:<{width}}  {command}" for name, command in found.items()]
    data = {"profiles": [{"name": n, "command": c} for n, c in found.items()]}
    ctx.out.result("profiles", data, *(lines or ["no profiles yet; the wizard of `kt run` saves"]))


@cli.command("show")
@takes(NameOptions)
def show(options: NameOptions, ctx: Context) -> None:
    """Show what a profile sets."""
    name = need(ctx, "name", options.name, "Which profile?")
    values = given(profiles.read(ctx.home, name))
    lines = [f"{key} = {value}" for key, value in values.items()]
    data = {"name": name, "values": to_plain(values), "command": _command(ctx, name)}
    ctx.out.result("profile", data, *lines, "", _command(ctx, name))


@cli.command("rm")
@takes(NameOptions)
def remove(options: NameOptions, ctx: Context) -> None:
    """Delete a profile."""
    name = need(ctx, "name", options.name, "Which profile?")
    path = profiles.path_of(ctx.home, name)
    if not ctx.confirm(f"Delete the profile {name}?"):
        raise UsageError(f"{name} was not deleted", "", "add --yes to confirm")
    path.unlink()
    ctx.out.result("profile", {"name": name, "removed": True}, f"{name} is deleted")


def _command(ctx: Context, name: str) -> str:
    return shlex.join(["kt", "run", *shown_argv(profiles.read(ctx.home, name))])
