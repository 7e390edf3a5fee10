"""`kt doctor`: what is wrong with this machine, what it costs, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kt_cli import probe
from kt_cli.command import takes
from kt_cli.core.machine import Machine
from kt_cli.core.serial import to_plain
from kt_cli.doctor import Facts, Finding, broken, check, drawing, online, reading, report
from kt_cli.doctor.finding import Severity
from kt_cli.doctor.gather import gather
from kt_cli.doctor.repair import Repaired, repair
from kt_cli.errors import EnvironmentBroken
from kt_cli.opts import opt, parse_path
from kt_cli.probe import bandwidth, stack, toml
from kt_cli.ui import Painted
from kt_cli.weights.packs import Shelf, folder_of
from kt_cli.workflow.context import Context

if TYPE_CHECKING:
    from rich.console import RenderableType

SUMMARY = "What is wrong with this machine, and how to mend it"

_COLOURS: dict[Severity, str] = {"error": "31", "warning": "33", "info": "36", "ok": "32"}


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    fix: bool = opt("--fix", help="Carry out the safe fixes, after asking", default=False)
    quick: bool = opt("--quick", help="Neither load engines nor time disks", default=False)
    online: bool = opt("--online", help="Ask the model hub and its clock too", default=False)
    measure: bool = opt("--measure", help="Measure bandwidth and peaks anew", default=False)
    save: str | None = opt(
        "--save", help="Write this machine to a TOML file", parse=parse_path, metavar="FILE"
    )


@takes(DoctorOptions)
def cli(options: DoctorOptions, ctx: Context) -> None:
    """Find what is wrong with this machine, what it costs, and how to mend it."""
    machine, findings = diagnose(options, ctx)
    repaired: tuple[Repaired, ...] = ()
    if options.fix:
        repaired = repair(findings, lambda finding, line: _agreed(ctx, finding, line))
        if any(result.done for result in repaired):
            machine, findings = diagnose(options, ctx)
    if options.save:
        Path(options.save).write_text(toml.dump(machine), encoding="utf-8")
        ctx.out.note(f"wrote {options.save}")
    ctx.out.result("doctor", as_json(machine, findings, repaired), *human(ctx, machine, findings))
    _say(ctx, repaired)
    if broken(findings):
        raise typer.Exit(EnvironmentBroken.exit_code)


def diagnose(options: DoctorOptions, ctx: Context) -> tuple[Machine, tuple[Finding, ...]]:
    environments = stack.environments(ctx.home)
    if not options.quick:
        ctx.out.note("looking at the machine and loading the engines it has …")
    host = probe.Host()
    machine = probe.machine(home=ctx.home, deep=not options.quick, environments=environments)
    if options.measure or not options.quick:
        machine = measured(machine, ctx, host, options.measure)
    facts = gather(
        host,
        machine,
        environments,
        ask_hub=online.ask if options.online else None,
        speed=None if options.quick else reading.speed,
    )
    kept = Shelf(folder_of(ctx.home)).packs()
    facts = replace(facts, packs=sum(pack.bytes for pack in kept))
    if not bandwidth.busy(host, machine.cpu.physical_cores):
        machine = with_disk(machine, ctx, facts)
    return machine, check(machine, facts)


def measured(machine: Machine, ctx: Context, host: probe.Host, force: bool) -> Machine:
    """With bandwidth and peaks; measured once on an idle machine, then kept."""
    kernels = machine.engine("kt_moe")
    ready = kernels is not None and kernels.details.get("available", "True") == "True"
    cores, room = machine.cpu.physical_cores, machine.memory.available
    if not ready or (machine.measured.read_gbs and not force):
        return machine
    if bandwidth.busy(host, cores) and not force:
        ctx.out.hint("this machine is busy, `kt doctor --measure` measures it all the same")
        return machine
    found = bandwidth.measure(host, cores, room)
    if found is None:
        return machine
    found = replace(found, disk_gbs=machine.measured.disk_gbs)
    bandwidth.save(ctx.home / "cache", found)
    return replace(machine, measured=found)


def with_disk(machine: Machine, ctx: Context, facts: Facts) -> Machine:
    """Keeps the slowest disk's speed: loading times are planned with it."""
    if not facts.read_gbs:
        return machine
    found = replace(machine.measured, disk_gbs=round(min(facts.read_gbs.values()), 2))
    bandwidth.save(ctx.home / "cache", found)
    return replace(machine, measured=found)


def as_json(
    machine: Machine, findings: tuple[Finding, ...], repaired: tuple[Repaired, ...]
) -> dict[str, Any]:
    return {
        "broken": broken(findings),
        "findings": [{**to_plain(f), "safe": bool(f.repair)} for f in findings],
        "repaired": to_plain(repaired),
        "machine": to_plain(machine),
    }


def human(ctx: Context, machine: Machine, findings: tuple[Finding, ...]) -> list[RenderableType]:
    drawn = drawing.draw(machine)
    if (getattr(ctx.out.stdout, "encoding", None) or "utf-8").lower().replace("-", "") != "utf8":
        drawn = [drawing.ascii_only(line) for line in drawn]
    said = [_painted(line) for line in report.lines(findings)]
    return [*drawn, *said, "", report.summary(findings)]


def _painted(line: report.Line) -> Painted:
    if line.severity is None:
        return Painted(((line.text, ""),))
    word = f"  {line.severity}"
    return Painted(((word, _COLOURS[line.severity]), (line.text[len(word) :], "")))


def _agreed(ctx: Context, finding: Finding, line: str) -> bool:
    agreed = ctx.confirm(f"{finding.what}: run `{line}`?")
    if not agreed and not ctx.may_ask:
        ctx.out.hint(f"`kt doctor --fix --yes` runs `{line}`")
    return agreed


def _say(ctx: Context, repaired: tuple[Repaired, ...]) -> None:
    for result in repaired:
        if result.done:
            ctx.out.note(f"mended {result.name}: `{result.command}`")
        else:
            ctx.out.warn(f"{result.name} is not mended: `{result.command}` {result.problem}")
