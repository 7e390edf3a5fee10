"""The mouth of `kt`: finds a command's module and turns errors into exit codes. No logic here."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import typer
import typer.completion
from typer.core import TyperCommand, TyperGroup

from kt_cli import environment
from kt_cli.commands import summaries
from kt_cli.errors import INTERRUPTED, KtError, UsageError
from kt_cli.ui import streams


class LazyGroup(TyperGroup):
    """Imports a command's module only when it runs."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(summaries())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = summaries()
        if cmd_name not in known:
            raise _unknown(cmd_name, known)
        if self._listing:
            return TyperCommand(cmd_name, help=known[cmd_name])
        return _load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        self._listing = True
        return super().shell_complete(ctx, incomplete)


def _unknown(name: str, known: Iterable[str]) -> UsageError:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean `kt {close[0]}`?" if close else "see `kt --help`"
    return UsageError(f"no command is called {name!r}", "", fix)


def _load(name: str) -> Any:
    cli = importlib.import_module(f"kt_cli.commands.{name}").cli
    if not isinstance(cli, typer.Typer):
        solo = typer.Typer(add_completion=False, rich_markup_mode=None)
        settings = getattr(cli, "context_settings", None)
        solo.command(name, context_settings=settings)(cli)
        cli = solo
    command = typer.main.get_command(cli)
    command.name = name
    return command


def _root() -> Any:
    root = typer.Typer(
        cls=LazyGroup, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )

    @root.callback()
    def kt(
        ctx: typer.Context,
        json: bool = typer.Option(False, "--json", help="Print data as JSON"),
        quiet: bool = typer.Option(False, "-q", "--quiet", help="Print results and errors only"),
        yes: bool = typer.Option(False, "-y", "--yes", help="Answer yes to every question"),
        no_input: bool = typer.Option(False, "--no-input", help="Never ask; fail instead"),
        debug: bool = typer.Option(False, "--debug", help="Show tracebacks and details"),
    ) -> None:
        """Run and fine-tune huge Mixture-of-Experts models on one workstation."""
        from kt_cli.command import remember
        from kt_cli.options import CommonOptions

        remember(ctx, CommonOptions(json, quiet, yes, no_input, debug))

    return typer.main.get_command(root)


def run(argv: list[str]) -> int:
    """Runs one command line and returns its exit code."""
    if argv in (["--version"], ["-V"]):
        argv = ["version"]
    if "_KT_COMPLETE" in os.environ:
        typer.completion.completion_init()  # type: ignore[attr-defined]
    try:
        result = _root().main(args=argv, prog_name="kt", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KtError as error:
        return _fail(error, argv)
    except typer.Exit as exit_:
        return int(exit_.exit_code)
    except (KeyboardInterrupt, typer.Abort, EOFError):
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError" and "--json" not in argv:
            return _guide(error, argv)
        return _fail(_wrap(error), argv)


def _wrap(error: Exception) -> KtError:
    """Any other exception as an error with a message: usage, system or a defect of ours."""
    click_error = typer.BadParameter.__mro__[2]
    if isinstance(error, click_error):
        message = error.format_message()  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "kt"
        return UsageError(message.rstrip("."), "", f"see `{command} --help`")
    wrapped = KtError(f"{type(error).__name__}: {error}", "", "run it again with --debug")
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        wrapped = KtError(f"{error.strerror or error}{where}", "", "run it again with --debug")
    wrapped.__cause__ = error
    return wrapped


def _guide(error: Exception, argv: list[str]) -> int:
    """A command that wants the name of another one: a choice on a terminal, else its help."""
    from kt_cli.ui import Out
    from kt_cli.ui.prompts import Choice, prompts

    out, group = Out(), error.ctx.command  # type: ignore[attr-defined]
    if not (argv and out.interactive) or "--no-input" in argv:
        out.note(str(error))
        return UsageError.exit_code
    shown = (c for c in group.commands.values() if not c.hidden)
    choices = [Choice(c.name, c.get_short_help_str(60)) for c in shown]
    try:
        return run([*argv, prompts(out).choose(f"kt {group.name}:", choices, choices[0].value)])
    except (KeyboardInterrupt, EOFError):
        return INTERRUPTED


def _fail(error: KtError, argv: list[str]) -> int:
    from kt_cli.ui import Out

    out = Out(json_mode="--json" in argv)
    if "--debug" in argv:
        out.trace(error)
    out.error(error)
    return error.exit_code


def main() -> NoReturn:
    gc.disable()  # the start makes thousands of objects and frees none; commands switch it on
    environment.tidy()
    streams.guard()
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except streams.ReaderGone:
        streams.release()
        code = streams.READER_GONE
    except KtError:  # the error itself could not be written
        streams.release()
        code = KtError.exit_code
    sys.exit(code)
