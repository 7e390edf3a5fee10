"""What starting and measuring must know of an engine, besides how it plans."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_cli.core.engine import Engine, Facts
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Kind, Plan, Range
from kt_cli.errors import UsageError
from kt_cli.options import CommonOptions, RunOptions
from kt_cli.opts import given, specs


@dataclass(frozen=True, slots=True)
class Start:
    """What a command is made from."""

    plan: Plan
    options: RunOptions
    machine: Machine
    home: Path | None = None
    """Holds what is kept from start to start; None keeps nothing."""
    extra: tuple[str, ...] = ()
    """Flags of the engine itself."""
    with_key: bool = False
    """Clients must send the key that stands in the environment as KT_API_KEY."""
    shown: bool = False
    """For people to read or paste, not started here."""


class Serving(Engine):
    """An engine that starts as a server."""

    @abstractmethod
    def python_for(self, machine: Machine) -> str:
        """The interpreter that has it. Raises EnvironmentBroken where there is none."""

    @abstractmethod
    def lower(self, start: Start, python: str) -> LaunchSpec:
        """The command for a plan."""

    def launch(self, start: Start) -> LaunchSpec:
        """`lower` on this machine. Raises UsageError for what it does not know, and
        EnvironmentBroken where it is not installed."""
        self.require_extra(start.extra, "")
        self.refuse_foreign(start.options)
        return self.lower(start, self.python_for(start.machine))

    def judged(self, machine: Machine) -> Machine:
        """With the problems of its installations that only it can tell."""
        return machine

    def unsure(self, machine: Machine) -> bool:
        """It was found and is not loaded yet, which a plan could rest on."""
        return False

    def require(self, machine: Machine) -> None:
        """Raises EnvironmentBroken where a plan for it would rest on nothing."""

    def require_extra(self, extra: Sequence[str], python: str) -> None:
        """Raises UsageError for the first word that is no flag of the engine."""
        if extra:
            why = f"it is no option of kt, and {self.title} takes no flags of its own"
            raise UsageError(f"no such option: {extra[0]}", why, close_flag(extra[0]))

    def refuse_foreign(self, options: RunOptions) -> None:
        """Raises UsageError that names what was asked for and only another engine can do; a
        setting for all models is no such wish."""
        asked = [specs(RunOptions)[name] for name in given(options)]
        foreign = [s for s in asked if not s.serves(self.name) and not s.setting]
        if foreign:
            flags = ", ".join(f"`{spec.flags[0]}`" for spec in foreign)
            owners = " and ".join(sorted({title_of(n) for spec in foreign for n in spec.engines}))
            why = f"only {owners} has this; the model would run on {self.title}"
            raise UsageError(f"{flags} cannot be used here", why, "leave it out")

    # What a running server is measured against

    shares_memory: bool = False
    """Its processes hold weights in memory that they share, not mapped from files."""

    def decode_limit(self, decode: Range, facts: Facts) -> float:
        """Tokens/s of one request that the measured ones are set against: see `Outcome`."""
        return (decode.low + decode.high) / 2

    def base(self, facts: Facts, *, on_gpu: bool) -> int | None:
        """Host memory that calibration may move; None for nothing."""
        return None

    def context(self, facts: Facts) -> int | None:
        """The same of each GPU."""
        return None

    def late(self, *, on_gpu: bool, used: bool) -> tuple[Kind, ...]:
        """Lines of the ledger that are not filled yet; `used`: it has had requests."""
        return ()

    def pools(self, facts: Facts, architecture: str) -> bool:
        """The KV cache is set aside whole at the start."""
        return True


def title_of(name: str) -> str:
    from kt_cli.engines.registry import get

    return get(name).title


def close_flag(word: str) -> str:
    import difflib

    known = [f for cls in (RunOptions, CommonOptions) for s in specs(cls).values() for f in s.flags]
    close = difflib.get_close_matches(word.partition("=")[0], known, n=1)
    return f"did you mean `{close[0]}`?" if close else "see `kt run --help`"
