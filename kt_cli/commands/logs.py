"""`kt logs`: what an engine wrote."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli import runtime
from kt_cli.command import takes
from kt_cli.commands.ps import unwritten
from kt_cli.opts import opt
from kt_cli.workflow.context import Context
from kt_cli.workflow.servers import chosen

SUMMARY = "What a server's engine wrote"


@dataclass(frozen=True, slots=True)
class LogsOptions:
    name: str | None = opt(help="Server, see `kt ps -a`", metavar="NAME")
    follow: bool = opt("-f", "--follow", help="Go on until the server ends", default=False)
    lines: int | None = opt("-n", "--lines", help="Only the last lines", low=0)


@takes(LogsOptions)
def cli(options: LogsOptions, ctx: Context) -> None:
    """Print a server's log."""
    known = runtime.servers(ctx.home)
    live = [s for s in known if s.live]
    server = chosen(ctx, options.name, live or sorted(known, key=lambda s: -s.started)[:1])
    lines = runtime.logs(ctx.home, server.name, lines=options.lines, follow=options.follow)
    if server.live and server.unwritten and server.unwritten.until is None:
        ctx.out.note(f"{server.name}: {unwritten(server.unwritten)}")
    for line in lines:
        if ctx.out.json_mode:
            ctx.out.event("log", {"line": line})
        else:
            ctx.out.print(line)
