"""The input line: several lines, history, completion. Enter sends, Alt-Enter begins a new line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle

QUOTES = '"""'
Complete = Callable[[str], list[str]]
"""The text before the cursor → the words that could replace its last word."""


class Prompt:
    def __init__(self, history: Path, complete: Complete) -> None:
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation=". ",
            key_bindings=_bindings(),
            history=FileHistory(str(history)),
            completer=_Words(complete),
            complete_style=CompleteStyle.READLINE_LIKE,
            complete_while_typing=False,
        )

    def read(self) -> str:
        """Raises KeyboardInterrupt for Ctrl-C and EOFError for Ctrl-D."""
        return unquote(self._session.prompt())


def unquote(text: str) -> str:
    """Without the quotes that let Enter begin a new line."""
    inner = text.strip()
    if len(inner) >= 2 * len(QUOTES) and inner.startswith(QUOTES) and inner.endswith(QUOTES):
        inner = inner[len(QUOTES) : -len(QUOTES)]
    return inner.strip("\n") if inner.strip() else ""


def is_open(text: str) -> bool:
    """A block of quotes began and has not ended."""
    inner = text.strip()
    return inner.startswith(QUOTES) and (len(inner) < 6 or not inner.endswith(QUOTES))


class _Words(Completer):
    def __init__(self, complete: Complete) -> None:
        self._complete = complete

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        before = document.text_before_cursor
        word = before.rpartition(" ")[2]
        for choice in self._complete(before):
            yield Completion(choice, start_position=-len(word))


def _bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
