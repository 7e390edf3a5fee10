"""Reads, answers, and reads again until the person leaves."""

from __future__ import annotations

from collections.abc import Callable

from kt_cli.chat import commands
from kt_cli.chat.chat import Chat, Leave
from kt_cli.errors import KtError

Read = Callable[[], str]


def converse(chat: Chat, read: Read) -> None:
    """`read` raises EOFError at the end and KeyboardInterrupt for Ctrl-C on the input line."""
    while True:
        try:
            text = read()
        except KeyboardInterrupt:
            chat.out.note("Ctrl-D or `/exit` leaves")
            continue
        except EOFError:
            return
        try:
            handle(chat, text)
        except Leave:
            return
        except KeyboardInterrupt:
            chat.out.note("interrupted")
        except KtError as error:
            chat.out.error(error)


def handle(chat: Chat, text: str) -> None:
    command = commands.parse(text)
    if command is not None:
        commands.run(chat, *command)
    elif text.strip() or chat.session.attachments:
        chat.say(text)
