"""From options to a running conversation, or to one answer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from kt_cli.api_client.client import Client
from kt_cli.api_client.find import find
from kt_cli.api_client.params import Params
from kt_cli.chat import commands
from kt_cli.chat.chat import Chat
from kt_cli.chat.files import read_text
from kt_cli.chat.loop import converse
from kt_cli.chat.oneshot import ask_once
from kt_cli.chat.options import ChatOptions
from kt_cli.chat.render import for_conversation
from kt_cli.chat.session import Conversation, Session
from kt_cli.chat.store import Store
from kt_cli.errors import NotReadyError, UsageError
from kt_cli.ui import Out

ONE_SHOT = "last-prompt"
"""Where the conversation of a single prompt is kept for `--continue`, one for all of them."""


def start(options: ChatOptions, out: Out, home: Path, *, may_ask: bool) -> None:
    """`may_ask`: a person may be asked for what to say, where there is a terminal."""
    prompt = _prompt(options, may_ask)
    store = Store(home)
    saved = store.latest() if options.resume else None
    session = Session(saved.conversation if saved else None)
    address = find(home, url=options.url, api_key=options.api_key, model=options.model)
    client = Client(address.url, address.api_key)
    _prepare(session, options, client)
    chat = Chat(client, session, store, out, lambda: for_conversation(out), not options.no_save)
    if saved:
        chat.name, chat.named = saved.name, True
    if prompt:
        _once(chat, prompt)
    else:
        _converse(chat, home, address.note)


def _prompt(options: ChatOptions, may_ask: bool) -> str:
    """The argument, the pipe, or both; empty for a conversation."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip("\n")
    prompt = "\n\n".join(filter(None, (options.prompt, piped)))
    terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if not prompt and not (may_ask and terminal):
        raise UsageError("PROMPT is missing", "", "give it as an argument or through a pipe")
    return prompt


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
    chat.name = chat.name or ONE_SHOT
    chat.session.ask(prompt)
    try:
        ask_once(chat.client, chat.session, chat.out)
    finally:
        if not chat.session.awaits_answer:
            chat.save()


def _converse(chat: Chat, home: Path, note: str) -> None:
    from kt_cli.chat.prompt import Prompt

    conversation = chat.session.conversation
    where = f"{conversation.model} at {chat.client.url}"
    chat.out.note(f"{where}: `/help` lists commands, Ctrl-D leaves")
    if note:
        chat.out.note(note)
    if conversation.messages:
        count = len(conversation.messages)
        chat.out.note(f"going on with {chat.name} ({count} messages): {conversation.title}")
    prompt = Prompt(home / "chat_history", lambda before: commands.complete(chat, before))
    converse(chat, prompt.read)
