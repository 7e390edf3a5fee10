"""`kt chat`: talk to a server, in a conversation or with one prompt."""

from __future__ import annotations

from kt_cli.chat.options import ChatOptions
from kt_cli.commands.cli import Context, takes


@takes(ChatOptions)
def cli(options: ChatOptions, ctx: Context) -> None:
    """Talk to a running server; with PROMPT or a pipe, answer once and leave."""
    from kt_cli.chat.start import start

    start(options, ctx.out, ctx.home, may_ask=not (ctx.common.no_input or ctx.common.json))
