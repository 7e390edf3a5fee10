"""`kt version`: what is installed here, from a kept probe; nothing heavy is imported."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kt_cli import __version__
from kt_cli.command import takes
from kt_cli.documents import read_json
from kt_cli.errors import KtError
from kt_cli.opts import opt
from kt_cli.settings import write_atomic
from kt_cli.workflow.context import Context

if TYPE_CHECKING:
    from kt_cli.core.machine import Engine

SUMMARY = "Versions of kt, Python, driver, kernels and engines"

UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class VersionOptions:
    check: bool = opt(
        "--check", help="Really load each engine (seconds; the result is kept)", default=False
    )


@takes(VersionOptions)
def cli(options: VersionOptions, ctx: Context) -> None:
    """Show the versions of kt, Python, driver, kernels and engines."""
    cache, key = ctx.home / "cache" / "version.json", _key(ctx.home)
    data = None if options.check else _kept(cache, key)
    if data is None:
        data = _probed(ctx.home, options.check)
        _keep(cache, _key(ctx.home), data)
    ctx.out.result("version", data, *_lines(data))


def _key(home: Path) -> str:
    """Changes when a package, an engine or the driver comes or goes, or the system boots."""
    places = [*sys.path, str(home / "engines"), str(home / "cache" / "engines.json")]
    places += ["/proc/driver/nvidia/version", "/proc/sys/kernel/random/boot_id"]
    stamps = [_stamp(place) for place in places]
    asked = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "KT_ISA")]
    return " ".join([__version__, sys.executable, *asked, *stamps])


def _stamp(place: str) -> str:
    """Files of the kernel have no times worth reading, but a few bytes."""
    try:
        return Path(place).read_text() if place.startswith("/proc/") else str(_time(place))
    except OSError:
        return "-"


def _time(place: str) -> int:
    return Path(place or ".").stat().st_mtime_ns


def _kept(cache: Path, key: str) -> dict[str, Any] | None:
    try:
        kept = read_json(cache)
        return dict(kept.part("data").values) if kept.text("key") == key else None
    except KtError:
        return None


def _keep(cache: Path, key: str, data: dict[str, Any]) -> None:
    """A cache that cannot be written only costs time."""
    try:
        write_atomic(cache, json.dumps({"key": key, "data": data}))
    except KtError:
        return


def _probed(home: Path, check: bool) -> dict[str, Any]:
    from kt_cli import probe

    machine = probe.machine(home=home, deep=check)
    system, kernels = machine.system, machine.engine("kt_moe")
    return {
        "kt": __version__,
        "python": system.python,
        "platform": f"{system.os}, Linux {system.kernel}, glibc {system.glibc}",
        "cuda": system.cuda,
        "driver": system.driver,
        "kernels": kernels.details.get("variant", "") if kernels else "",
        "engines": {engine.name: _engine(engine) for engine in machine.engines},
    }


def _engine(engine: Engine) -> dict[str, Any]:
    return {
        "version": engine.version,
        "python": engine.python,
        "problem": engine.problem,
        "checked": UNCHECKED not in engine.details,
        "variant": engine.details.get("variant", ""),
        "why": engine.details.get("why", ""),
    }


def _lines(data: dict[str, Any]) -> list[str]:
    driver = f"{data['cuda']} (driver {data['driver']})" if data["cuda"] else "no GPU driver"
    engines: dict[str, dict[str, Any]] = data["engines"]
    rows = [
        ("kt", data["kt"]),
        ("Python", data["python"]),
        ("Platform", data["platform"]),
        ("CUDA", driver),
        *((name, _state(engine)) for name, engine in engines.items()),
    ]
    if not all(engine["checked"] for engine in engines.values()):
        rows.append(("", "`kt version --check` loads each engine to see whether it works"))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _state(engine: dict[str, Any]) -> str:
    if engine["problem"]:
        return f"{engine['version']} broken: {engine['problem']}".strip()
    note = engine["variant"] and f"runs {engine['variant']}"
    note = f"kernels cannot be used: {engine['why']}" if engine["why"] else note
    note = note if engine["checked"] else "not loaded yet"
    return " ".join(filter(None, (engine["version"], note and f"({note})"))) or "(found)"
