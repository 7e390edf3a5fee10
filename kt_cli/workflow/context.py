"""What a command works with besides its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kt_cli.errors import UsageError
from kt_cli.options import CommonOptions
from kt_cli.settings import Settings
from kt_cli.ui import Out

if TYPE_CHECKING:
    from kt_cli.ui.prompts import Choice, Prompts


@dataclass(frozen=True)
class Context:
    out: Out
    common: CommonOptions
    settings: Settings
    extra: tuple[str, ...] = ()
    """Unknown flags, passed through to the engine."""

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def may_ask(self) -> bool:
        return self.out.interactive and not (self.common.no_input or self.common.json)

    def confirm(self, question: str) -> bool:
        """Asks on a terminal; --yes answers yes; without a terminal the answer is no."""
        if self.common.yes:
            return True
        return self.may_ask and self.prompts.confirm(question)

    @property
    def prompts(self) -> Prompts:
        """For questions, where `may_ask`."""
        from kt_cli.ui.prompts import prompts

        return prompts(self.out)


def need(
    ctx: Context, name: str, value: str | None, question: str = "", choices: Sequence[Choice] = ()
) -> str:
    """The value, else an answer on a terminal, else an error that names what is missing."""
    if value is not None:
        return value
    if not ctx.may_ask:
        raise UsageError(f"{name.upper()} is missing", "", "give it on the command line")
    if choices:
        return ctx.prompts.choose(question or name, choices, choices[0].value)
    answer = None
    while answer is None:
        answer = ctx.prompts.text(question or name, "", f"the {name}; Ctrl-C leaves", str)
    return str(answer)
