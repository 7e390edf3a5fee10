"""`kt config`: read and change settings."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from kt_cli.command import NoOptions, takes
from kt_cli.errors import UsageError
from kt_cli.opts import opt
from kt_cli.settings import Value, keys
from kt_cli.workflow.context import Context, need

SUMMARY = "Settings, with the origin of every value"

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Settings and their origins",
)


@dataclass(frozen=True, slots=True)
class KeyOptions:
    key: str | None = opt(help="Setting, such as server.port", metavar="KEY", ask="Which setting?")


@dataclass(frozen=True, slots=True)
class SetOptions(KeyOptions):
    value: str | None = opt(help="New value", metavar="VALUE", ask="New value?")


def _text(value: object) -> str:
    return "" if value is None else str(value)


@cli.command("get")
@takes(KeyOptions)
def get(options: KeyOptions, ctx: Context) -> None:
    """Print one setting."""
    name = need(ctx, "key", options.key)
    value = ctx.settings.get(name)
    ctx.out.result(
        "config", {"key": name, "value": value.value, "origin": value.origin}, _text(value.value)
    )


@cli.command("set")
@takes(SetOptions)
def set_(options: SetOptions, ctx: Context) -> None:
    """Store a setting in the user's file."""
    name, text = need(ctx, "key", options.key), need(ctx, "value", options.value)
    value = ctx.settings.set(name, text)
    origin = str(ctx.settings.user_file)
    ctx.out.result("config", {"key": name, "value": value, "origin": origin}, f"{name} = {value}")


@cli.command("unset")
@takes(KeyOptions)
def unset(options: KeyOptions, ctx: Context) -> None:
    """Remove a setting from the user's file."""
    name = need(ctx, "key", options.key)
    held = ctx.settings.unset(name)
    text = f"{name} is unset" if held else f"{name} was not set in {ctx.settings.user_file}"
    ctx.out.result("config", {"key": name, "removed": held}, text)


@cli.command("list")
@takes(NoOptions)
def list_(options: NoOptions, ctx: Context) -> None:
    """Show every setting, its value and where it comes from."""
    values = ctx.settings.all()
    data = {"settings": {n: {"value": v.value, "origin": v.origin} for n, v in values.items()}}
    ctx.out.result("config", data, *_lines(values))


def _lines(values: dict[str, Value]) -> list[str]:
    width = max(map(len, values))
    shown = {n: _text(v.value) or "-" for n, v in values.items()}
    span = max(map(len, shown.values()))
    return [f"{n:<{width}}  {shown[n]:<{span}}  {v.origin}" for n, v in values.items()]


@cli.command("path")
@takes(NoOptions)
def path(options: NoOptions, ctx: Context) -> None:
    """Print the path of the user's file."""
    file = str(ctx.settings.user_file)
    ctx.out.result("config", {"path": file}, file)


@cli.command("init")
@takes(NoOptions)
def init(options: NoOptions, ctx: Context) -> None:
    """Ask for the common settings and store them."""
    if not ctx.may_ask:
        fix = "use `kt config set KEY VALUE`"
        raise UsageError("`kt config init` asks questions and needs a terminal", "", fix)
    for name, key in keys().items():
        current = ctx.settings.get(name).value
        answer = ctx.prompts.text(f"{key.help}:", _text(current), f"setting {name}", str)
        if answer is not None and answer != _text(current):
            ctx.settings.set(name, answer)
    ctx.out.note(f"settings are in {ctx.settings.user_file}")


@cli.command("reset")
@takes(NoOptions)
def reset(options: NoOptions, ctx: Context) -> None:
    """Delete the user's file."""
    file = ctx.settings.user_file
    if not ctx.confirm(f"Delete {file}?"):
        raise UsageError("nothing was reset", "this deletes the file", "add --yes to confirm")
    ctx.settings.reset()
    ctx.out.result("config", {"reset": True}, "all settings are at their defaults")
