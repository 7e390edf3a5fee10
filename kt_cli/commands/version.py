"""`kt version`: what is installed here, from names and a kept probe; nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli import __version__, probe
from kt_cli.commands.cli import Context, takes
from kt_cli.core.machine import Engine, Machine
from kt_cli.options import opt

UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class VersionOptions:
    check: bool = opt(
        "--check", help="Really load each engine (seconds; the result is kept)", default=False
    )


@takes(VersionOptions)
def cli(options: VersionOptions, ctx: Context) -> None:
    """Show the versions of kt, Python, driver, kernels and engines."""
    machine = probe.machine(home=ctx.home, deep=options.check)
    kernels = machine.engine("kt_moe")
    data = {
        "kt": __version__,
        "python": machine.system.python,
        "platform": f"{machine.system.os}, Linux {machine.system.kernel}",
        "cuda": machine.system.cuda,
        "driver": machine.system.driver,
        "kernels": kernels.details.get("variant", "") if kernels else "",
        "engines": {e.name: _engine(e) for e in machine.engines},
    }
    ctx.out.result("version", data, *_lines(machine, options.check))


def _engine(engine: Engine) -> dict[str, str]:
    return {"version": engine.version, "python": engine.python, "problem": engine.problem}


def _lines(machine: Machine, checked: bool) -> list[str]:
    system = machine.system
    driver = f"{system.cuda} (driver {system.driver})" if system.cuda else "no GPU driver"
    rows = [
        ("kt", __version__),
        ("Python", system.python),
        ("Platform", f"{system.os}, Linux {system.kernel}, glibc {system.glibc}"),
        ("CUDA", driver),
        *((engine.name, _state(engine)) for engine in machine.engines),
    ]
    if not checked and any(UNCHECKED in e.details for e in machine.engines):
        rows.append(("", "`kt version --check` loads each engine to see whether it works"))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def _state(engine: Engine) -> str:
    if engine.problem:
        return f"{engine.version} broken: {engine.problem}".strip()
    variant = engine.details.get("variant", "")
    note = "not loaded yet" if UNCHECKED in engine.details else variant and f"runs {variant}"
    return " ".join(filter(None, (engine.version, note and f"({note})"))) or "(found)"
