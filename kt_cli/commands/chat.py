"""`kt chat`: talk to a server, in a conversation or with one prompt."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path

from kt_cli.chat.chat import Chat
from kt_cli.chat.client import Client
from kt_cli.chat.files import read_text
from kt_cli.chat.find import find
from kt_cli.chat.params import Params
from kt_cli.chat.render import Renderer, for_terminal
from kt_cli.chat.session import Conversation, Session
from kt_cli.chat.store import Store
from kt_cli.commands.cli import Context, takes
from kt_cli.errors import NotReadyError, UsageError
from kt_cli.options import opt, parse_count

SAMPLING = "Sampling"
ONE_SHOT = "last-prompt"
"""Where the conversation of a single prompt is kept for `--continue`, one for all of them."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    prompt: str | None = opt(help="Ask this and leave; a pipe is added to it", metavar="[PROMPT]")
    url: str | None = opt("--url", help="Address of the server", metavar="URL")
    api_key: str | None = opt("--api-key", help="Key of the server (or KT_API_KEY)", metavar="KEY")
    model: str | None = opt(
        "-m", "--model", help="Model, where the server has several", metavar="NAME"
    )
    system: str | None = opt("-s", "--system", help="System prompt", metavar="TEXT")
    file: tuple[str, ...] | None = opt(
        "-f",
        "--file",
        help="Text file that goes with the first message, repeatable",
        metavar="FILE",
    )
    resume: bool = opt("-c", "--continue", help="Go on with the last conversation", default=False)
    no_save: bool = opt("--no-save", help="Do not save the conversation", default=False)
    temperature: float | None = opt(
        "-t",
        "--temperature",
        help="0 always takes the likeliest token",
        metavar="NUMBER",
        low=0,
        high=2,
        panel=SAMPLING,
    )
    top_p: float | None = opt(
        "--top-p",
        help="Share of probability to choose from",
        metavar="NUMBER",
        low=0,
        high=1,
        panel=SAMPLING,
    )
    max_tokens: int | None = opt(
        "--max-tokens",
        help="Longest answer, tokens",
        parse=parse_count,
        low=1,
        metavar="TOKENS",
        panel=SAMPLING,
    )


@takes(ChatOptions)
def cli(options: ChatOptions, ctx: Context) -> None:
    """Talk to a running server; with PROMPT or a pipe, answer once and leave."""
    piped = None if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    prompt = "\n\n".join(filter(None, (options.prompt, piped and piped.strip("\n"))))
    if not prompt and not _can_converse(ctx, piped):
        raise UsageError("PROMPT is missing", "", "give it as an argument or through a pipe")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    store = Store(ctx.home)
    saved = store.latest() if options.resume else None
    session = Session(saved.conversation if saved else None)
    address = find(ctx.home, url=options.url, api_key=options.api_key, model=options.model)
    client = Client(address.url, address.api_key)
    _prepare(session, options, client)
    chat = Chat(client, session, store, ctx.out, lambda: _renderer(ctx), not options.no_save)
    if saved:
        chat.name, chat.named = saved.name, True
    if prompt:
        _once(chat, prompt)
    else:
        _converse(chat, ctx, address.note)


def _can_converse(ctx: Context, piped: str | None) -> bool:
    return piped is None and sys.stdout.isatty() and not (ctx.common.no_input or ctx.common.json)


def _prepare(session: Session, options: ChatOptions, client: Client) -> None:
    """Flags win over what a continued conversation brings."""
    before: Conversation = session.conversation
    flags = Params(options.temperature, options.top_p, max_tokens=options.max_tokens)
    system = before.system if options.system is None else options.system
    session.conversation = replace(before, system=system, params=flags.over(before.params))
    for path in options.file or ():
        session.attach(Path(path).name, read_text(Path(path)))
    session.change(model=options.model or _served_model(client, before.model))


def _served_model(client: Client, wanted: str) -> str:
    models = client.models()
    if not models:
        raise NotReadyError(f"the server at {client.url} has no model", "", "see `kt ps`")
    return wanted if wanted in models else models[0]


def _once(chat: Chat, prompt: str) -> None:
    from kt_cli.chat.oneshot import ask_once

    chat.name = chat.name or ONE_SHOT
    chat.session.ask(prompt)
    try:
        ask_once(chat.client, chat.session, chat.out)
    finally:
        if not chat.session.awaits_answer:
            chat.save()


def _converse(chat: Chat, ctx: Context, note: str) -> None:
    from kt_cli.chat import commands
    from kt_cli.chat.loop import converse
    from kt_cli.chat.prompt import Prompt

    conversation = chat.session.conversation
    chat.out.note(
        f"{conversation.model} at {chat.client.url}: `/help` lists commands, Ctrl-D leaves"
    )
    if note:
        chat.out.note(note)
    if conversation.messages:
        count = len(conversation.messages)
        chat.out.note(f"going on with {chat.name} ({count} messages): {conversation.title}")
    prompt = Prompt(ctx.home / "chat_history", lambda before: commands.complete(chat, before))
    converse(chat, prompt.read)


def _renderer(ctx: Context) -> Renderer:
    return for_terminal(ctx.out.stdout, ctx.out.console)
