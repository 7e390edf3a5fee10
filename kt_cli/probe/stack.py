"""Engines and their libraries in every environment, without importing any of them here.

The cheap look reads the names of installed distributions. The deep look imports them in a process
of their own, so that an illegal instruction or a broken import is a finding; its result is kept
until the environment, the interpreter or the boot changes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kt_cli import unfinished
from kt_cli.core.environment import FOLDER, MARKER, read_marker
from kt_cli.core.machine import Engine
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import read_json
from kt_cli.errors import KtError
from kt_cli.probe.host import TIMED_OUT, Host, Ran

# Import name → distributions that provide it, the most specific first.
ENGINES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "transformers": ("transformers-kt", "transformers"),
    "kt_moe": ("kt-cli",),
    "kt_kernel": ("kt-kernel", "kt-kernel-cuda"),
    "sglang": ("sglang-kt", "sglang"),
    "llamafactory": ("llamafactory-kt", "llamafactory"),
}
CHOICES = ("KT_ISA", "KT_KERNEL_CPU_VARIANT")
"""Variables that decide which kernels a package loads."""
NAMELESS = "0.0.0"
"""How sglang-kt calls itself, which looks for its version under the name sglang."""
UNCHECKED = "unchecked"
"""Key in `Engine.details` of an engine that was found but not loaded."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter with its packages; `name` is empty for the one that runs kt."""

    name: str
    python: str
    sites: tuple[Path, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        """A managed environment must not inherit this one's PYTHONPATH or user packages."""
        return (self.python,) if not self.name else (self.python, "-E", "-s")


def environments(home: Path | None) -> tuple[Environment, ...]:
    """The running interpreter's, then the managed ones below `home`/engines."""
    own = Environment("", sys.executable, tuple(Path(p) for p in sys.path if p))
    pythons = sorted(home.glob(f"{FOLDER}/*/bin/python")) if home else []
    managed = (
        Environment(
            p.parent.parent.name, str(p), tuple(p.parent.parent.glob("lib/python3*/site-packages"))
        )
        for p in pythons
        if not _unfinished(p.parent.parent)
    )
    return (own, *managed)


def _unfinished(folder: Path) -> bool:
    """Whether `kt engine install` was interrupted there; environments made by hand are whole."""
    try:
        state = read_marker(dict(read_json(folder / MARKER).values))
    except KtError:
        return False
    return state is not None and not state.complete


def distributions(environment: Environment) -> dict[str, str]:
    """Normalised name → version of what is installed; earlier path entries win."""
    found: dict[str, str] = {}
    for site in reversed(environment.sites):
        try:
            names = [path.name for path in site.iterdir()]
        except OSError:
            continue
        for name in names:
            stem, dot, kind = name.rpartition(".")
            if dot and kind in ("dist-info", "egg-info"):
                project, _, version = stem.partition("-")
                found[project.replace("_", "-").lower()] = version.partition("-py")[0]
    return found


def read(
    host: Host,
    environments: Sequence[Environment],
    *,
    deep: bool = False,
    cache: Path | None = None,
    timeout: float = 120.0,
) -> tuple[Engine, ...]:
    """Every engine of every environment; `deep` really loads them (seconds)."""
    kept = _load_cache(cache)
    engines: list[Engine] = []
    for environment in environments:
        listed = _listed(environment)
        key = _key(host, environment, listed)
        known = _remembered(kept, environment, key)
        if known is None and deep and listed:
            known = tuple(_load(host, environment, listed, timeout))
            kept[environment.python] = {"key": key, "engines": [to_plain(e) for e in known]}
            _save_cache(cache, kept)
        engines += known or listed
    return tuple(engines)


def _listed(environment: Environment) -> tuple[Engine, ...]:
    installed = distributions(environment)
    engines = []
    for name, providers in ENGINES.items():
        provider = next((p for p in providers if p in installed), None)
        if provider:
            details = {"distribution": provider, UNCHECKED: "found, not loaded yet"}
            engines.append(Engine(name, installed[provider], environment.python, "", details))
    running = environment.python == sys.executable
    if running and "kt-cli" not in installed and importlib.util.find_spec("kt_moe"):
        engines.append(Engine("kt_moe", "", environment.python, "", {UNCHECKED: "source tree"}))
    return tuple(engines)


def _load(
    host: Host, environment: Environment, listed: Sequence[Engine], timeout: float
) -> list[Engine]:
    """One process for all; after a crash another one for those that had not had their turn."""
    waiting = {engine.name: engine for engine in listed}
    loaded: dict[str, Engine] = {}
    while waiting:
        script = str(Path(__file__).with_name("inside.py"))
        ran = host.run((*environment.argv, script, *waiting), timeout)
        before = len(waiting)
        for name, report in _reports(ran).items():
            loaded[name] = _checked(waiting.pop(name), report)
        if len(waiting) == before:
            broken = f"the interpreter {ran.problem or 'said nothing'}"
            loaded |= {n: _checked(e, {"problem": broken}) for n, e in waiting.items()}
            break
    return [loaded[engine.name] for engine in listed]


def _reports(ran: Ran) -> dict[str, Mapping[str, Any]]:
    """Name → report; the one in whose turn the process ended gets its end as the problem."""
    reports: dict[str, Mapping[str, Any]] = {}
    begun = ""
    for line in ran.out.splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        begun = report.get("begin", "") or begun
        if "name" in report:
            reports[report["name"]] = report
    if begun and begun not in reports:
        reports[begun] = {"problem": f"import {_ending(ran)}"}
    return reports


def _ending(ran: Ran) -> str:
    if ran.code == TIMED_OUT:
        return "took too long"
    return ran.problem or "ended the process"


def _checked(engine: Engine, report: Mapping[str, Any]) -> Engine:
    details = {k: v for k, v in engine.details.items() if k != UNCHECKED}
    version = str(report.get("version", ""))
    nameless = not version or version.startswith(NAMELESS)
    return replace(
        engine,
        version=engine.version if nameless else version,
        problem=str(report.get("problem", "")),
        details={**details, **report.get("details", {})},
    )


def _key(host: Host, environment: Environment, listed: Sequence[Engine]) -> str:
    """Changes when a package comes or goes, an engine's own folder changes, the system boots, or
    other kernels are asked for."""
    places = [*environment.sites]
    places += [site / engine.name for site in environment.sites for engine in listed]
    stamps = [str(stamp) for place in places if (stamp := _changed(place))]
    boot = host.text("/proc/sys/kernel/random/boot_id")
    asked = [f"{name}={host.env[name]}" for name in CHOICES if name in host.env]
    return " ".join([environment.python, boot, *asked, *stamps])


def _changed(place: Path) -> int:
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return 0


def _remembered(
    kept: Mapping[str, Any], environment: Environment, key: str
) -> tuple[Engine, ...] | None:
    entry = kept.get(environment.python)
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    try:
        return tuple(from_plain(Engine, engine) for engine in entry["engines"])
    except (ShapeError, KeyError, TypeError):
        return None


def _load_cache(cache: Path | None) -> dict[str, Any]:
    try:
        return dict(read_json(cache / "engines.json").values) if cache else {}
    except KtError:
        return {}


def _save_cache(cache: Path | None, data: Mapping[str, Any]) -> None:
    """A cache that cannot be written only costs time."""
    if cache is None:
        return
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        unfinished.write(cache / "engines.json", json.dumps(data, indent=1))
