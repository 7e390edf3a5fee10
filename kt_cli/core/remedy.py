"""Which change of the options makes a plan fit: found by planning, not by promising."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from kt_cli.core.plan import Plan
from kt_cli.options import RunOptions
from kt_cli.opts import with_flags

Replan = Callable[[RunOptions], Plan]
TRIES = 24
"""Plans that are made in search of one that fits; each takes some milliseconds."""
PLACEHOLDER = "FOLDER"
CHANGES = 3
"""Flags that may be added together."""


def remedy(plan: Plan, options: RunOptions, replan: Replan) -> RunOptions | None:
    """The options with the fewest of the plan's own fixes after which it fits; None if there are
    none within reach."""
    tries, seen, waiting = TRIES, {options}, [(options, plan)]
    for _ in range(CHANGES):
        later = []
        for base, made in waiting:
            for changed in _changed(base, made):
                if changed in seen or tries == 0:
                    continue
                seen.add(changed)
                tries -= 1
                again = replan(changed)
                if again.fits:
                    return changed
                later.append((changed, again))
        waiting = later
    return None


def _changed(options: RunOptions, plan: Plan) -> Iterator[RunOptions]:
    """One for each fix that is a whole flag: those that say they fit first."""
    errors = [p for p in plan.problems if p.severity == "error"]
    fixes = [f for p in errors for f in p.fixes if f.flag and not _open(f.flag)]
    for fix in sorted(fixes, key=lambda f: f.effect != "fits"):
        yield with_flags(options, shlex.split(fix.flag))


def _open(flag: str) -> bool:
    """Whether a person must fill something in, as in `--weights-path FOLDER`."""
    return PLACEHOLDER in flag.split()
