"""What was asked for and by whom, and the decisions that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kt_cli.core.plan import Decision, Source
from kt_cli.opts import specs

if TYPE_CHECKING:
    from kt_cli.options import RunOptions

_SAID: Mapping[Source, str] = {
    "flag": "asked for on the command line",
    "environment": "set in the environment",
    "config": "set in the configuration",
    "profile": "set in the profile",
    "wizard": "answered in the wizard",
    "preset": "recommended for this model",
}
UNDECIDED = (None, "auto")


@dataclass(frozen=True, slots=True)
class Wishes:
    options: RunOptions
    origins: Mapping[str, Source] = field(default_factory=dict)
    """Field → who decided it; a field that is not listed came from a flag."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Field → where exactly: a variable's or a file's name, a profile, a preset's reason."""

    def get(self, name: str) -> Any:
        """The value asked for, None where undecided."""
        value = getattr(self.options, name)
        return None if value in UNDECIDED else value

    def fixed(self, name: str) -> bool:
        return self.get(name) is not None

    def foreign(self, engine: str) -> list[str]:
        """What was asked for now and means nothing to the engine; a setting for all models is no
        such wish."""
        settings = ("environment", "config")
        others = (name for name, spec in specs(self.options).items() if not spec.serves(engine))
        asked = (name for name in others if self.get(name) is not None)
        return [name for name in asked if self.origins.get(name) not in settings]

    def settle(self, decision: str, name: str, value: Any, why: str) -> Decision:
        """The decision with the wish where there is one, else with the derived value."""
        wish = self.get(name)
        if wish is None:
            return Decision(decision, value, why)
        source = self.origins.get(name, "flag")
        said = _SAID.get(source, source)
        word = self.words.get(name)
        return Decision(decision, wish, f"{said} ({word})" if word else said, source)
