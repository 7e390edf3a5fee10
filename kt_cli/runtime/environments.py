"""Builds managed environments below KT_HOME/engines, with uv where it is present and pip otherwise.

A build goes on where it was interrupted: packages come in batches, and what a batch left whole is
not fetched again. Until the last one is there, `MARKER` says that the environment is unfinished.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kt_cli import children, unfinished
from kt_cli.core.environment import FOLDER, MARKER, Installed, read_marker
from kt_cli.core.serial import to_plain
from kt_cli.documents import read_json
from kt_cli.errors import DoesNotFitError, EnvironmentBroken, KtError, TransferError

Progress = Callable[[str, float], None]
_LOOK_S = 0.5
_ROOM = 2_000_000_000
"""Bytes that must be free besides the environment: the largest wheel is unpacked beside it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One package of a build: its requirement line, its wheel's bytes."""

    name: str
    version: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Build:
    """What to build; `batches` are installed one after the other."""

    name: str
    lock: str
    python: str
    """Path of the interpreter that the environment is made from."""
    batches: tuple[tuple[Wanted, ...], ...]
    disk: int
    resolve: bool = False
    """Also install what the packages require themselves."""
    links: tuple[Path, ...] = ()
    """Folders of packages that are linked into the environment."""


def folder_of(home: Path, name: str) -> Path:
    return home / FOLDER / name


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def installed(home: Path, name: str) -> Installed | None:
    """What is there, finished or not; None where kt built nothing."""
    try:
        return read_marker(dict(read_json(folder_of(home, name) / MARKER).values))
    except KtError:
        return None


def build(home: Path, plan: Build, progress: Progress) -> Installed:
    """Makes the environment or finishes it; does nothing where it is complete.

    Raises DoesNotFitError for a disk that is too small, TransferError where packages did not come,
    EnvironmentBroken for an interpreter that cannot make environments.
    """
    folder = folder_of(home, plan.name)
    with _alone(folder):
        state = installed(home, plan.name)
        if state and state.complete and state.lock == plan.lock:
            return state
        if folder.exists() and (state is None or state.lock != plan.lock):
            _refuse_foreign(folder, state)
            shutil.rmtree(folder)
        _require_room(folder, plan)
        state = Installed(plan.name, plan.lock, _version(plan.python))
        _make(folder, plan.python, state)
        _fill(folder, plan, progress)
        for source in plan.links:
            _link(folder, source)
        done = replace(state, complete=True, date=time.strftime("%Y-%m-%d"), bytes=_size(folder))
        _write(folder, done)
        return done


def remove(home: Path, name: str) -> int:
    """Bytes that came free. An interrupted removal leaves an unfinished environment."""
    folder = folder_of(home, name)
    with _alone(folder):
        state, size = installed(home, name), _size(folder)
        if state is not None:
            _write(folder, replace(state, complete=False))
        shutil.rmtree(folder)
    return size


def lacking(folder: Path, packages: Sequence[Wanted]) -> tuple[Wanted, ...]:
    """Those that are not there whole in their version: an installer writes RECORD last."""
    records = folder.glob("lib/python3*/site-packages/*.dist-info/RECORD")
    whole = {_normal(record.parent.name.removesuffix(".dist-info")) for record in records}
    return tuple(p for p in packages if _normal(f"{p.name}-{p.version}") not in whole)


def _normal(name: str) -> str:
    """Name and version as they compare; a local version such as `+cpu` is left out."""
    return re.sub(r"[-_.]+", "-", name.partition("+")[0]).lower()


# Steps of a build


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises KtError where another kt works on the same environment."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            why = "another kt is installing or removing it"
            raise KtError(
                f"{folder.name} is being changed", why, "wait until it is done"
            ) from error
        yield


def _refuse_foreign(folder: Path, state: Installed | None) -> None:
    """What somebody made by hand is not replaced."""
    if state is None and any(folder.iterdir()):
        why = f"{folder} was not built by `kt engine install`"
        raise KtError(f"{folder.name} is there already", why, "move it away, or use it as it is")


def _require_room(folder: Path, plan: Build) -> None:
    needed = max(0, plan.disk - _size(folder)) + _ROOM
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        what = f"the disk is too small for {plan.name} by {(needed - free) / 1e9:.1f} GB"
        why = f"it needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB is free in {folder.parent}"
        raise DoesNotFitError(what, why, "free some space, or set KT_HOME to a larger disk")


def _make(folder: Path, python: str, state: Installed) -> None:
    """The bare environment. One that is there is kept."""
    if installed(folder.parent.parent, folder.name) and python_of(folder).exists():
        return
    uv = shutil.which("uv")
    make = [uv, "venv", "-q", "--python", python] if uv else [python, "-m", "venv"]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, state)
    command = [*make, *(["--allow-existing"] if uv else []), str(folder)]
    done = children.run(command)
    if done.returncode:
        fix = "install uv, or the package `python3-venv` of your distribution"
        why = _last_line((done.stderr or done.stdout).decode(errors="replace"))
        raise EnvironmentBroken(f"cannot make {folder}", why, fix)
    _write(folder, state)


def _fill(folder: Path, plan: Build, progress: Progress) -> None:
    unfinished.sweep(folder)
    total = sum(package.bytes for batch in plan.batches for package in batch) or 1
    done = 0
    for batch in plan.batches:
        left, size = lacking(folder, batch), sum(package.bytes for package in batch)
        if left:
            stage = f"{_names(left)}, {total / 1e9:.1f} GB in all"

            def fetched(grown: int, stage: str = stage, done: int = done, size: int = size) -> None:
                progress(stage, (done + min(grown, size)) / total)

            _install(folder, left, fetched, resolve=plan.resolve)
        done += size
    progress("installed", 1.0)


def _install(
    folder: Path, packages: Sequence[Wanted], fetched: Callable[[int], None], *, resolve: bool
) -> None:
    """`fetched` hears how many bytes lie in the installer's temporary folder."""
    with unfinished.scratch(folder) as scratch:
        file, log = scratch / "requirements.txt", scratch / "log"
        file.write_text("".join(f"{p.name}=={p.version}\n" for p in packages))
        command = [*_installer(folder, resolve), "-r", str(file)]
        env = {**os.environ, "TMPDIR": str(scratch)}
        env.pop("PYTHONPATH", None)
        with log.open("wb") as sink, children.started(command, sink, env) as process:
            while not children.ended(process, within_s=_LOOK_S):
                fetched(_size(scratch))
        said = log.read_text(errors="replace")
    if process.returncode:
        what = f"packages of {folder.name} could not be installed"
        fix = "check the network, the disk and your package index, then run the same command: "
        raise TransferError(what, _last_line(said), f"{fix}it goes on where it stopped")


def _installer(folder: Path, resolve: bool) -> list[str]:
    python, uv = str(python_of(folder)), shutil.which("uv")
    alone = [] if resolve else ["--no-deps"]
    if uv:
        torch = ["--torch-backend=auto"] if resolve else []
        return [uv, "pip", "install", "--no-progress", "--python", python, *alone, *torch]
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    return [python, "-m", "pip", "install", *quiet, *alone]


def _link(folder: Path, source: Path) -> None:
    for site in folder.glob("lib/python3*/site-packages"):
        place = site / source.name
        place.unlink(missing_ok=True)
        place.symlink_to(source, target_is_directory=True)


def _write(folder: Path, state: Installed) -> None:
    unfinished.write(folder / MARKER, json.dumps(to_plain(state), indent=1) + "\n")


def _version(python: str) -> str:
    if python == sys.executable:
        return ".".join(map(str, sys.version_info[:3]))
    code = "import platform; print(platform.python_version())"
    return children.run([python, "-c", code]).stdout.decode(errors="replace").strip()


def _size(folder: Path) -> int:
    """Bytes on disk, links counted as links."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118
            except OSError:
                continue
    return total


def _names(packages: Sequence[Wanted]) -> str:
    largest = max(packages, key=lambda p: p.bytes).name
    rest = len(packages) - 1
    return f"{largest} and {rest} more" if rest else largest


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×", "fatal"))]
    return (errors or lines or ["it said nothing"])[-1]
