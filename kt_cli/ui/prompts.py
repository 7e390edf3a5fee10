"""Questions to a person: arrow keys and search on a full terminal, plain lines elsewhere.

Both write to stderr, so that stdout carries data alone. Both raise EOFError at the end of input
and KeyboardInterrupt at Ctrl-C. `?` as an answer shows more about the question.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from kt_cli.ui.gate import one_line
from kt_cli.ui.out import Out, colours

HELP = "?"
_LONG = 8
"""Lists of more choices can be searched by typing."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`value` is the answer; `note` says more about it."""

    value: str
    note: str = ""


class Prompts(Protocol):
    def text(
        self, question: str, default: str, help: str, check: Callable[[str], Any]
    ) -> Any | None:
        """The checked answer, None for the default; asks again until `check` raises nothing."""

    def choose(
        self, question: str, choices: Sequence[Choice], default: str, help: str = ""
    ) -> str: ...

    def confirm(self, question: str, default: bool = False) -> bool: ...

    def clear(self) -> None:
        """An empty screen, where the terminal can be repainted."""


def prompts(out: Out) -> Prompts:
    return _Full(out) if is_full_terminal(out) else PlainPrompts(out)


def is_full_terminal(out: Out) -> bool:
    """Whether lines can be repainted: questionary needs that."""
    return out.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class PlainPrompts:
    """One line a question: the default in brackets, Enter takes it."""

    def __init__(self, out: Out, stdin: TextIO | None = None) -> None:
        self._out = out
        self._stdin = stdin or sys.stdin

    def text(self, question: str, default: str, help: str, check: Callable[[str], Any]) -> Any:
        while True:
            answer = self._line(f"{question} [{default}] " if default else f"{question} ")
            if not answer:
                return None
            if answer == HELP:
                self._out.note(f"  {help}")
                continue
            try:
                return check(answer)
            except ValueError as error:
                self._out.note(f"  {error}")

    def choose(self, question: str, choices: Sequence[Choice], default: str, help: str = "") -> str:
        """By number or by value."""
        for number, choice in enumerate(choices, 1):
            self._out.note(f"  {number:>2}  {choice.value}  {choice.note}".rstrip())
        values = [choice.value for choice in choices]

        def check(answer: str) -> str:
            if answer.isdigit() and 1 <= int(answer) <= len(values):
                return values[int(answer) - 1]
            if answer not in values:
                raise ValueError(f"a number from 1 to {len(values)}, or a name of the list")
            return answer

        return str(self.text(question, default, help, check) or default)

    def confirm(self, question: str, default: bool = False) -> bool:
        words = {"y": True, "yes": True, "n": False, "no": False}

        def check(answer: str) -> bool:
            if answer.lower() not in words:
                raise ValueError("y or n")
            return words[answer.lower()]

        answer = self.text(question, "Y/n" if default else "y/N", "y for yes, n for no", check)
        return default if answer is None else bool(answer)

    def clear(self) -> None:
        """Lines stay."""

    def _line(self, prompt: str) -> str:
        self._out.prompt(prompt)
        line = self._stdin.readline()
        if not line:
            raise EOFError
        return line.strip()


class _Full:
    """questionary, on stderr and without colours where those are not wanted."""

    def __init__(self, out: Out) -> None:
        self._out = out

    def text(self, question: str, default: str, help: str, check: Callable[[str], Any]) -> Any:
        import questionary

        def allowed(answer: str) -> bool | str:
            try:
                if answer not in ("", HELP):
                    check(answer)
            except ValueError as error:
                return str(error)
            return True

        hint = f"[{default}] " if default else ""
        while True:
            asked = questionary.text(
                one_line(question),
                instruction=one_line(hint),
                validate=allowed,
                validate_while_typing=False,
                **self._look(),
            )
            answer = str(asked.unsafe_ask()).strip()
            if answer == HELP:
                self._out.note(f"  {help}")
            else:
                return check(answer) if answer else None

    def choose(self, question: str, choices: Sequence[Choice], default: str, help: str = "") -> str:
        import questionary

        width = max(len(choice.value) for choice in choices)
        titles = [one_line(f"{c.value:<{width}}  {c.note}".rstrip()) for c in choices]
        shown = [
            questionary.Choice(title, value=c.value)
            for title, c in zip(titles, choices, strict=True)
        ]
        long = len(choices) > _LONG
        while True:
            asked = questionary.select(
                one_line(question),
                shown,
                default=default if default in [c.value for c in choices] else None,
                use_search_filter=long,
                use_jk_keys=not long,
                instruction="(arrow keys; type to search)" if long else "(arrow keys)",
                **self._look(),
            )
            if help:
                asked.application.key_bindings.add(HELP, eager=True)(_leave_for_help)
            answer = str(asked.unsafe_ask())
            if answer != HELP:
                return answer
            self._out.note(f"  {help}")

    def confirm(self, question: str, default: bool = False) -> bool:
        import questionary

        asked = questionary.confirm(one_line(question), default=default, **self._look())
        return bool(asked.unsafe_ask())

    def clear(self) -> None:
        self._out.clear()

    def _look(self) -> dict[str, Any]:
        from prompt_toolkit.output import ColorDepth, create_output
        from prompt_toolkit.styles import Style

        if colours(self._out.stderr):
            return {"output": create_output(self._out.stderr)}
        plain = Style.from_dict({name: "noinherit" for name in ("qmark", "answer", "pointer")})
        depth = ColorDepth.DEPTH_1_BIT
        return {"output": create_output(self._out.stderr), "style": plain, "color_depth": depth}


def _leave_for_help(event: Any) -> None:
    event.app.exit(result=HELP)
