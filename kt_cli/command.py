"""From an options dataclass to a Typer command: `@takes(RunOptions)`.

The decorated function gets `(options, ctx)`; its flags, ranges, choices and help come from the
dataclass, so that wizard, settings and Python callers share one definition.
"""

from __future__ import annotations

import dataclasses
import gc
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typer

from kt_cli.options import CommonOptions
from kt_cli.opts import Opt, specs
from kt_cli.settings import load
from kt_cli.ui import Out
from kt_cli.workflow.context import Context

O = TypeVar("O")  # noqa: E741


PASSES = {"ignore_unknown_options": True, "allow_extra_args": True}


def takes(
    cls: type[O], *, passes: bool = False
) -> Callable[[Callable[[O, Context], None]], Callable[..., None]]:
    """A command function `(options, ctx)` as a function that Typer understands.

    `passes`: what is not known is no error but `ctx.extra`.
    """

    def decorate(function: Callable[[O, Context], None]) -> Callable[..., None]:
        def command(ctx: typer.Context, **values: Any) -> None:
            gc.freeze()
            gc.enable()
            common = _common(ctx, values)
            options = cls(**{name: _finish(v) for name, v in values.items()})
            function(options, context(common, tuple(ctx.args)))

        head = inspect.Parameter("ctx", _KIND, annotation=typer.Context)
        params = [head, *_parameters(cls), *_parameters(CommonOptions)]  # type: ignore[arg-type]
        command.__signature__ = inspect.Signature(params)  # type: ignore[attr-defined]
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        command.context_settings = PASSES if passes else None  # type: ignore[attr-defined]
        return command

    return decorate


@dataclass(frozen=True, slots=True)
class NoOptions:
    """For commands that take nothing of their own."""


def context(common: CommonOptions, extra: tuple[str, ...] = ()) -> Context:
    return Context(Out(json_mode=common.json, quiet=common.quiet), common, load(), extra)


def remember(ctx: typer.Context, common: CommonOptions) -> None:
    """Keeps the options that stood before the command's name."""
    ctx.obj = common


_KIND = inspect.Parameter.POSITIONAL_OR_KEYWORD


def _common(ctx: typer.Context, values: dict[str, Any]) -> CommonOptions:
    before = ctx.obj if isinstance(ctx.obj, CommonOptions) else CommonOptions()
    names = [f.name for f in dataclasses.fields(CommonOptions)]
    return CommonOptions(**{n: values.pop(n) or getattr(before, n) for n in names})


@cache
def _parameters(cls: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(cls)
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    built = [_parameter(n, hints[n], defaults[n], spec) for n, spec in specs(cls).items()]
    return built


def _parameter(name: str, hint: Any, default: Any, spec: Opt) -> inspect.Parameter:
    base, many = _base(hint)
    kind = str if spec.parse or spec.choices else base
    info: Any
    extra: dict[str, Any] = {"help": spec.help, "hidden": spec.hidden}
    if spec.metavar:
        extra["metavar"] = spec.metavar
    elif spec.choices:
        extra["metavar"] = "[" + "|".join(spec.choices) + "]"
    check = _checker(spec, base, many)
    if check:
        extra["parser"] = check
    else:
        extra |= {"min": spec.low, "max": spec.high}
    if spec.flags:
        panel = spec.panel or None
        info = typer.Option(*spec.flags, show_default=False, rich_help_panel=panel, **extra)
    else:
        info = typer.Argument(show_default=False, **extra)
    plural = many and not spec.parse
    annotation = list[kind] if plural else kind  # type: ignore[valid-type]
    if default is None:
        annotation = annotation | None  # type: ignore[assignment]
    return inspect.Parameter(name, _KIND, default=default, annotation=Annotated[annotation, info])


def _checker(spec: Opt, base: type, many: bool) -> Callable[[Any], Any] | None:
    """A parser with choices and bounds, where Typer's own conversion does not do."""
    if not (spec.parse or spec.choices):
        return None
    parse = spec.parse or base

    def check(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            value = parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        _check_bounds(spec, value)
        return value

    return check


def _check_bounds(spec: Opt, value: Any) -> None:
    if spec.choices and value not in spec.choices:
        lowered = {c.lower(): c for c in spec.choices}
        hint = lowered.get(str(value).lower())
        raise typer.BadParameter(
            f"{value!r} is not one of {', '.join(spec.choices)}"
            + (f"; did you mean {hint!r}?" if hint else "")
        )
    if isinstance(value, (int, float)):
        if spec.low is not None and value < spec.low:
            raise typer.BadParameter(f"{value} is less than {spec.low:g}")
        if spec.high is not None and value > spec.high:
            raise typer.BadParameter(f"{value} is more than {spec.high:g}")


def _base(hint: Any) -> tuple[type, bool]:
    """The type below `| None` and `tuple[…, ...]`, and whether it was a tuple."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    return hint, False


def _finish(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
