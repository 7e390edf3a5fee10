"""Gets one answer and shows it while it comes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from kt_cli.api_client.client import Client, Delta
from kt_cli.chat.interrupts import Interrupts
from kt_cli.chat.keyboard import silent
from kt_cli.chat.render import Renderer
from kt_cli.chat.session import Conversation, wire_messages
from kt_cli.chat.stats import Meter, Speed
from kt_cli.errors import KtError


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, even if it ended early: by Ctrl-C (`interrupted`) or by an `error`."""

    text: str
    reasoning: str
    finish_reason: str | None
    speed: Speed
    interrupted: bool = False
    error: KtError | None = None

    @property
    def stopped(self) -> bool:
        return self.interrupted or self.error is not None


def get_answer(client: Client, conversation: Conversation, renderer: Renderer) -> Answer:
    """Raises nothing for a failing server: the part that came belongs to the conversation."""
    meter = Meter()
    text: list[str] = []
    thoughts: list[str] = []
    reason: str | None = None
    interrupted, failure = False, None
    messages = wire_messages(conversation)
    deltas = client.stream(conversation.model, messages, conversation.params)
    with Interrupts() as interrupts, silent(), renderer:
        try:
            # A generator by its nature, so that closing it lets the server go.
            with closing(cast(Generator[Delta, None, None], deltas)):
                for delta in interrupts.each(deltas):
                    meter.see(delta)
                    reason = delta.finish_reason or reason
                    _show(delta, renderer, text, thoughts)
        except KeyboardInterrupt:
            interrupted = True
        except KtError as error:
            failure = error
    return Answer("".join(text), "".join(thoughts), reason, meter.speed(), interrupted, failure)


def _show(delta: Delta, renderer: Renderer, text: list[str], thoughts: list[str]) -> None:
    if delta.reasoning:
        thoughts.append(delta.reasoning)
        renderer.reasoning(delta.reasoning)
    if delta.text:
        text.append(delta.text)
        renderer.text(delta.text)
