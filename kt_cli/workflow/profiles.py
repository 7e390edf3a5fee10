"""Named profiles: options of `run` kept in KT_HOME/profiles/NAME.toml."""

from __future__ import annotations

import re
from pathlib import Path

from kt_cli import documents
from kt_cli.core.plan import Source
from kt_cli.core.plan_run import Origins
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import read_toml
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.options import RunOptions
from kt_cli.opts import given, replace_undecided, specs
from kt_cli.settings import write_atomic

"""Never written to a profile."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def folder(home: Path) -> Path:
    return home / "profiles"


def names(home: Path) -> list[str]:
    place = folder(home)
    return sorted(p.stem for p in place.glob("*.toml")) if place.is_dir() else []


def save(home: Path, name: str, options: RunOptions) -> Path:
    """Raises UsageError for a name that is no file name."""
    import tomli_w

    if not _NAME.fullmatch(name):
        raise UsageError(f"a profile cannot be called {name!r}", "letters, digits, dot and dash")
    values = {k: v for k, v in given(options).items() if not specs(options)[k].secret}
    path = folder(home) / f"{name}.toml"
    write_atomic(path, tomli_w.dumps(to_plain(values)))
    return path


def read(home: Path, name: str) -> RunOptions:
    """Raises NotFoundError without the profile, UsageError for a file that is damaged."""
    path, fix = path_of(home, name), "mend or remove it"
    try:
        return from_plain(
            RunOptions, read_toml(path, documents.Source(str(path), fix, UsageError)).values
        )
    except ShapeError as error:
        raise UsageError(f"{path} is not a profile", str(error), fix) from error


def path_of(home: Path, name: str) -> Path:
    path = folder(home) / f"{name}.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(names(home)) or "none"
        raise NotFoundError(f"no profile is called {name!r}", f"profiles: {known}")
    return path


def with_profile(options: RunOptions, home: Path, name: str) -> tuple[RunOptions, Origins]:
    """Undecided fields from the profile, and that it was the profile that decided them."""
    taken = given(options)
    values = {k: v for k, v in given(read(home, name)).items() if k not in taken}
    sources: dict[str, Source] = dict.fromkeys(values, "profile")
    return replace_undecided(options, values), Origins(sources, dict.fromkeys(values, name))
