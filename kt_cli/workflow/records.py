"""Plans and outcomes as files: `kt plan --out`, `kt run --plan`, KT_HOME/history."""

from __future__ import annotations

import json
from pathlib import Path

from kt_cli.core.drift import plan_from_json, plan_to_json
from kt_cli.core.history import Outcome
from kt_cli.core.plan import Plan
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Source, read_json
from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.settings import write_atomic

KEPT = 50
"""Outcomes that are kept, the newest."""


def save_plan(path: Path, plan: Plan) -> None:
    write_atomic(path, json.dumps(plan_to_json(plan), indent=2, ensure_ascii=False) + "\n")


def load_plan(path: Path) -> Plan:
    """Raises NotFoundError or UsageError that names what is wrong with the file."""
    fix = "write one with `kt plan MODEL --out FILE`"
    try:
        return plan_from_json(dict(read_json(path, Source(str(path), fix, UsageError)).values))
    except NotFoundError as error:
        raise NotFoundError(f"no plan at {path}", "", fix) from error
    except ShapeError as error:
        raise UsageError(f"{path} is not a plan", str(error), fix) from error


def save_outcome(home: Path, outcome: Outcome) -> Path:
    """One file an outcome; the name sorts by time."""
    name = f"{outcome.date}-{outcome.model}.json".replace("/", "-").replace(":", "")
    path = home / "history" / name
    write_atomic(path, json.dumps(to_plain(outcome), indent=2) + "\n")
    for old in _files(home)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def outcomes(home: Path) -> tuple[Outcome, ...]:
    """The newest first; a file that cannot be read is passed over."""
    found = (_outcome(path) for path in _files(home)[:KEPT])
    return tuple(o for o in found if o is not None)


def _files(home: Path) -> list[Path]:
    folder = home / "history"
    return sorted(folder.glob("*.json"), reverse=True) if folder.is_dir() else []


def _outcome(path: Path) -> Outcome | None:
    try:
        return from_plain(Outcome, read_json(path).values)
    except (KtError, ShapeError):
        return None
