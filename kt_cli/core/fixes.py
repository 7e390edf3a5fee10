"""The cheapest ways out of a plan that does not fit, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kt_cli.core.plan import Fix, Problem
from kt_cli.core.units import gb


@dataclass(frozen=True, slots=True)
class WayOut:
    """A change and how many bytes would still be missing after it; cheapest first in a list."""

    action: str
    flag: str
    short: int


def ways_out(short: int, ways: Iterable[WayOut], place: str) -> tuple[Fix, ...]:
    """First what is enough alone, then what helps, last the memory to add."""
    useful = [w for w in ways if w.short < short]
    enough = [Fix(w.action, "fits", w.flag) for w in useful if w.short == 0]
    helps = [
        Fix(w.action, f"frees {gb(short - w.short)}, {gb(w.short)} still missing", w.flag)
        for w in useful
        if w.short
    ]
    return (*enough, *helps, Fix(f"+{gb(short)} {place}", "fits"))


def means_nothing(flags: Sequence[str], engine: str, other: str) -> Problem:
    """Flags that were asked for and that the plan's engine does not have."""
    named = ", ".join("--" + flag.replace("_", "-") for flag in flags)
    fix = Fix("leave it out", "fits" if len(flags) == 1 else "all of them")
    return Problem(f"{named} is not for {engine}", f"only {other} has it", fixes=(fix,))
