"""`Session`: a conversation and what can be done to it. Knows no server, no terminal, no file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kt_cli.api_client.params import Params

TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["user", "assistant"]
    content: str
    reasoning: str = ""
    """What a reasoning model thought; never sent back to the server."""
    stopped: bool = False
    """The answer was cut off: by the person, or because the server was lost."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is saved. `created` and `updated` are Unix times."""

    messages: tuple[Message, ...] = ()
    system: str = ""
    model: str = ""
    params: Params = field(default_factory=Params)
    created: float = 0.0
    updated: float = 0.0

    @property
    def title(self) -> str:
        first = next((m.content for m in self.messages if m.role == "user"), "")
        line = " ".join(first.split())
        return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"


class Session:
    """The conversation that goes on, and what waits to go with the next message."""

    def __init__(self, conversation: Conversation | None = None) -> None:
        self.conversation = conversation or Conversation(created=time.time())
        self.attachments: list[str] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.conversation.messages

    @property
    def awaits_answer(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "user"

    def change(self, **changes: Any) -> None:
        self.conversation = replace(self.conversation, **changes)

    def ask(self, text: str) -> None:
        content = "\n\n".join([*self.attachments, text]) if text else "\n\n".join(self.attachments)
        self.attachments = []
        self._set([*self.messages, Message("user", content)])

    def answer(self, content: str, reasoning: str = "", *, stopped: bool = False) -> None:
        """An answer without a word is not kept, so that the question can be asked again."""
        if content or reasoning:
            self._set([*self.messages, Message("assistant", content, reasoning, stopped)])

    def retry(self) -> bool:
        """Takes the last answer back; False when there is no question to answer again."""
        if self.messages and not self.awaits_answer:
            self._set(self.messages[:-1])
        return self.awaits_answer

    def undo(self) -> str:
        """Takes the last question and its answer back; returns the question or an empty text."""
        questions = [i for i, m in enumerate(self.messages) if m.role == "user"]
        if not questions:
            return ""
        last = questions[-1]
        question = self.messages[last].content
        self._set(self.messages[:last])
        return question

    def clear(self) -> None:
        """A new conversation with the same system prompt, model and parameters."""
        self.attachments = []
        self.conversation = replace(
            self.conversation, messages=(), created=time.time(), updated=0.0
        )

    def attach(self, name: str, content: str) -> None:
        self.attachments.append(quote_file(name, content))

    def _set(self, messages: Sequence[Message]) -> None:
        self.change(messages=tuple(messages), updated=time.time())


def wire_messages(conversation: Conversation) -> list[dict[str, str]]:
    """Messages as the API takes them.

    A question that never got its answer joins the next one: templates demand that roles alternate.
    """
    wire: list[dict[str, str]] = []
    if conversation.system:
        wire.append({"role": "system", "content": conversation.system})
    for message in conversation.messages:
        if wire and wire[-1]["role"] == message.role:
            wire[-1]["content"] += f"\n\n{message.content}"
        elif message.content or message.role == "user":
            wire.append({"role": message.role, "content": message.content})
    return wire


def quote_file(name: str, content: str) -> str:
    """A file as part of a message, fenced with more backticks than it has anywhere itself."""
    fence = "```"
    while fence in content:
        fence += "`"
    ending = "" if content.endswith("\n") else "\n"
    return f"File `{name}`:\n\n{fence}\n{content}{ending}{fence}"
