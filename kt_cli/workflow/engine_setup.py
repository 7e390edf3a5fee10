"""Installing an engine's environment: what it would take, and doing it."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kt_cli.core.machine import Engine, Machine
from kt_cli.core.plan import Plan
from kt_cli.engines import sglang
from kt_cli.engines.environments import EnvironmentSpec, Lock, batches, locked, spec_of
from kt_cli.errors import EnvironmentBroken
from kt_cli.runtime import environments
from kt_cli.runtime.environments import Build, Wanted
from kt_cli.ui import Out, human_bytes

_BATCH_BYTES = 200_000_000
"""After a kill at most this much is fetched again, or one larger wheel."""
_MINORS = (13, 12, 11, 10)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an installation would take; `ready` where there is nothing left to do."""

    build: Build
    ready: bool
    fetch: int
    """Bytes still to be downloaded."""
    packages: int
    text: str

    @property
    def question(self) -> str:
        return f"Install {self.build.name}? {self.text}"


def lock_of(spec: EnvironmentSpec, python: str) -> Lock:
    """`python`: a version such as 3.11.7."""
    short = ".".join(python.split(".")[:2])
    return locked(spec, {"python_full_version": python, "python_version": short})


def offer(spec: EnvironmentSpec, home: Path) -> Offer:
    """Raises EnvironmentBroken where no Python on this machine suits the engine."""
    state = environments.installed(home, spec.name)
    python, version = _python(spec)
    lock = lock_of(spec, version)
    folder = environments.folder_of(home, spec.name)
    wanted = tuple(Wanted(p.name, p.version, p.bytes) for p in lock.packages)
    fetch = sum(p.bytes for p in environments.lacking(folder, wanted))
    groups = tuple(
        tuple(Wanted(p.name, p.version, p.bytes) for p in batch)
        for batch in ([lock.packages] if spec.resolve else batches(lock.packages, _BATCH_BYTES))
    )
    links = _own_packages() if spec.linked else ()
    build = Build(spec.name, lock.digest, python, groups, spec.disk, spec.resolve, links)
    ready = state is not None and state.complete and state.lock == lock.digest
    text = (
        f"{len(wanted)} packages, {human_bytes(fetch)} to download, "
        f"about {human_bytes(spec.disk)} in {folder}"
    )
    return Offer(build, ready, fetch, len(wanted), text)


def install_engine(offer: Offer, home: Path, out: Out) -> None:
    """Shows progress; raises what `environments.build` raises."""
    from kt_cli.ui.progress import progress

    with progress(out, offer.build.name) as show:
        environments.build(home, offer.build, show)


def _own_packages() -> tuple[Path, ...]:
    found = (importlib.util.find_spec(name) for name in ("kt_cli", "kt_moe"))
    return tuple(Path(s.origin).parent for s in found if s and s.origin)


def _python(spec: EnvironmentSpec) -> tuple[str, str]:
    """Interpreter and version: the running one where it suits, else one on the PATH."""
    from packaging.specifiers import SpecifierSet

    range_ = SpecifierSet(spec.python)
    running = platform.python_version()
    if running in range_:
        return sys.executable, running
    if not spec.linked:  # linked packages are compiled for the running one
        for minor in _MINORS:
            found = shutil.which(f"python3.{minor}")
            if found and f"3.{minor}.0" in range_:
                return found, f"3.{minor}.0"
    why = f"it needs Python {spec.python}; kt runs on {running}"
    fix = "install such a Python, for example python3.12 with its venv package"
    raise EnvironmentBroken(f"{spec.name} cannot be installed", why, fix)


# Offered by `kt run`


def missing_sglang(machine: Machine, plan_on: Callable[[Machine], Plan]) -> EnvironmentSpec | None:
    """The environment that would put the GPU to use: the plan would take SGLang if it were here."""
    if not machine.gpus or machine.engine(sglang.NAME):
        return None
    spec = spec_of(sglang.NAME)
    packages = lock_of(spec, platform.python_version()).packages
    version = next((p.version for p in packages if p.name == "sglang-kt"), "")
    there = replace(machine, engines=(*machine.engines, Engine(sglang.NAME, version, "python")))
    plan = plan_on(there)
    return spec if plan.engine == sglang.NAME and plan.fits else None
