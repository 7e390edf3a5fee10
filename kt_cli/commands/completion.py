"""`kt completion SHELL`: print the script that completes `kt`, or install it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from typer.completion import get_completion_script, install  # type: ignore[attr-defined]

from kt_cli.command import takes
from kt_cli.errors import UsageError
from kt_cli.opts import opt
from kt_cli.workflow.context import Context

SUMMARY = "Shell completion for bash, zsh and fish"

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class CompletionOptions:
    shell: str | None = opt(help="bash, zsh or fish; the login shell when left out", choices=SHELLS)
    install: bool = opt("--install", help="Write it where the shell looks for it", default=False)


@takes(CompletionOptions)
def cli(options: CompletionOptions, ctx: Context) -> None:
    """Print the completion script of a shell, or install it with --install."""
    shell = options.shell or _login_shell()
    if options.install:
        _, path = install(shell=shell, prog_name="kt", complete_var="_KT_COMPLETE")
        data = {"shell": shell, "path": str(path)}
        ctx.out.result("completion", data, f"completion is in {path}; open a new {shell} to use it")
        return
    script = get_completion_script(prog_name="kt", complete_var="_KT_COMPLETE", shell=shell)
    ctx.out.result("completion", {"shell": shell, "script": script}, script)


def _login_shell() -> str:
    name = Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise UsageError(
            "SHELL is missing", "the login shell is none of them", "name bash, zsh or fish"
        )
    return name
