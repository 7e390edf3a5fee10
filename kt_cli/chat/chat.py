"""`Chat`: an interactive conversation with one server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kt_cli.api_client.client import Client
from kt_cli.api_client.failures import LostError
from kt_cli.chat.answer import Answer, get_answer
from kt_cli.chat.render import Renderer
from kt_cli.chat.session import Session
from kt_cli.chat.stats import Speed
from kt_cli.chat.store import Saved, Store
from kt_cli.errors import AuthError, KtError, NotFoundError, NotReadyError
from kt_cli.ui import Out, Painted


class Leave(Exception):
    """The person wants to go."""


@dataclass(slots=True)
class Chat:
    """What the commands work on."""

    client: Client
    session: Session
    store: Store
    out: Out
    renderer: Callable[[], Renderer]
    keep: bool = True
    """Conversations are saved after every answer."""
    name: str = ""
    """File of the conversation; empty until it is saved."""
    named: bool = False
    """The name was chosen by the person."""
    unsaved: bool = False
    """The disk refused the last answer, which was said."""
    speeds: list[Speed] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.session.ask(text)
        self.answer()

    def answer(self) -> None:
        """Answers the last message; what came of an answer that broke off is kept."""
        answer = get_answer(self.client, self.session.conversation, self.renderer())
        self.session.answer(answer.text, answer.reasoning, stopped=answer.stopped)
        self.speeds.append(answer.speed)
        self._close(answer)
        if answer.error is not None:
            self._explain(answer.error)
        self.save()

    def save(self) -> None:
        """Where the disk refuses, the conversation goes on and says so once."""
        if not (self.keep and self.session.messages):
            return
        self.name = self.name or self.store.free_name()
        try:
            self.store.save(self.name, self.session.conversation)
            self.unsaved = False
        except KtError as error:
            if not self.unsaved:
                self.out.note(f"{error.what}: {error.why}")
            self.unsaved = True

    def rename(self, name: str) -> None:
        """Saves under `name` from now on; a copy under an automatic name goes away."""
        before = self.name
        self.store.save(name, self.session.conversation)
        if before and before != name and not self.named:
            self.store.remove(before)
        self.name, self.named, self.keep = name, True, True

    def take(self, saved: Saved) -> None:
        """Goes on with a saved conversation, with its model where the server has it."""
        conversation = saved.conversation
        model = self.session.conversation.model
        self.session.conversation = conversation
        self.name, self.named = saved.name, True
        if conversation.model != model and conversation.model not in self.client.models():
            self.session.change(model=model)
        self.out.note(f"{saved.name}: {len(conversation.messages)} messages, {conversation.title}")

    def clear(self) -> None:
        self.session.clear()
        self.name, self.named = "", False

    def check_model(self, name: str) -> None:
        known = self.client.models()
        if name not in known:
            raise NotFoundError(
                f"the server has no model {name!r}", "", f"it has {', '.join(known)}"
            )

    def _close(self, answer: Answer) -> None:
        if answer.interrupted:
            self.out.note(_dim("stopped; `/retry` asks again"))
        if answer.text or answer.reasoning:
            cut = " · cut at the token limit" if answer.finish_reason == "length" else ""
            self.out.note(_dim(answer.speed.describe() + cut))

    def _explain(self, error: KtError) -> None:
        self.out.error(error)
        if isinstance(error, LostError | NotReadyError | AuthError):
            self.out.hint("the conversation is kept; `/retry` asks again")
        else:
            self.session.undo()
            self.out.hint("the message was taken back; arrow up brings it to the input line")


def _dim(text: str) -> Painted:
    return Painted(((text, "2"),))
