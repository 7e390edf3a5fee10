"""`kt stop`: end one server or all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_cli import runtime
from kt_cli.command import takes
from kt_cli.core.serial import to_plain
from kt_cli.errors import UsageError
from kt_cli.opts import opt
from kt_cli.runtime import Server
from kt_cli.workflow.context import Context
from kt_cli.workflow.servers import chosen

SUMMARY = "Stop a server, or all"


@dataclass(frozen=True, slots=True)
class StopOptions:
    name: str | None = opt(help="Server, see `kt ps`", metavar="NAME")
    all: bool = opt("--all", help="Every server", default=False)
    now: bool = opt("--now", help="Kill it without asking it to end first", default=False)


@takes(StopOptions)
def cli(options: StopOptions, ctx: Context) -> None:
    """Stop a server and wait until it is gone."""
    if options.all and options.name:
        raise UsageError("both NAME and `--all` are given", "", "leave one out")
    found = _wanted(options, ctx)
    ended = [runtime.stop(ctx.home, server.name, now=options.now) for server in found]
    lines = [f"{server.name} is stopped" for server in ended]
    ctx.out.result("stop", {"stopped": to_plain(ended)}, *(lines or ["no server is running"]))


def _wanted(options: StopOptions, ctx: Context) -> Sequence[Server]:
    present = [s for s in runtime.servers(ctx.home) if s.state != "stopped"]
    if not options.all:
        return [chosen(ctx, options.name, [s for s in present if s.live] or present)]
    names = ", ".join(s.name for s in present)
    if len(present) > 1 and not ctx.confirm(f"Stop {names}?"):
        raise UsageError("nothing was stopped", f"running: {names}", "add --yes to confirm")
    return present
