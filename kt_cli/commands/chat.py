"""`kt chat`: talk to a server, in a conversation or with one prompt."""

from __future__ import annotations

from kt_cli.api_client.find import is_anybody_there
from kt_cli.chat.options import ChatOptions
from kt_cli.command import takes
from kt_cli.commands.run import RunCommandOptions, run
from kt_cli.workflow.context import Context

SUMMARY = "Talk to a running server"


@takes(ChatOptions)
def cli(options: ChatOptions, ctx: Context) -> None:
    """Talk to a running server; with PROMPT or a pipe, answer once and leave."""
    from kt_cli.chat.start import start

    alone = ctx.may_ask and not is_anybody_there(ctx.home, options.url)
    if alone and ctx.confirm("No server is running. Start one?"):
        run(RunCommandOptions(model=options.model, detach=True), ctx)
    start(options, ctx.out, ctx.home, may_ask=not (ctx.common.no_input or ctx.common.json))
