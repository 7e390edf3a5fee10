"""The machine a plan is for: this one, a preset, a file, and what-ifs on top."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from kt_cli.core.facts import GpuFacts
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.what_if import completed, find_gpu, with_gpus, with_ram, with_vram
from kt_cli.engines import sglang
from kt_cli.engines.facts import presets_folder, read_gpus
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.opts import opt, parse_bytes, parse_preset_or_path

_GPUS = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(.+)")
WHAT_IF = "What if"


@dataclass(frozen=True)
class MachineOptions:
    """Without slots, so that another options class may stand beside it as a base."""

    on: str | None = opt(
        "--on",
        help="Plan for a machine preset or a file written by `kt doctor --save`",
        parse=parse_preset_or_path,
        metavar="MACHINE|FILE",
        panel=WHAT_IF,
    )
    ram: int | None = opt(
        "--ram", help="Plan for this much RAM", parse=parse_bytes, metavar="SIZE", panel=WHAT_IF
    )
    vram: int | None = opt(
        "--vram",
        help="Plan for this much memory on each GPU",
        parse=parse_bytes,
        metavar="SIZE",
        panel=WHAT_IF,
    )
    gpu: str | None = opt(
        "--gpu", help="Plan for these GPUs, such as 0, 2, 4090 or 2x5090", panel=WHAT_IF
    )


def machine_for(options: MachineOptions, home: Path) -> Machine:
    """Raises NotFoundError or UsageError for what cannot be understood."""
    table = read_gpus()
    machine = base_machine(options.on, home)
    if options.gpu is not None:
        machine = _with_gpus(machine, options.gpu, table)
    if options.vram is not None:
        if not machine.gpus:
            raise UsageError("--vram without a GPU", "", "add `--gpu 4090`, say")
        machine = with_vram(machine, options.vram)
    if options.ram is not None:
        machine = with_ram(machine, options.ram)
    return completed(machine, table)


def base_machine(on: str | None, home: Path) -> Machine:
    from kt_cli import probe
    from kt_cli.probe import toml

    if on is None:
        return sglang.judged(probe.machine(home=home))
    path = Path(on).expanduser()
    if path.suffix == ".toml" or "/" in on:
        return toml.load(path)
    preset = presets_folder() / "machines" / f"{on}.toml"
    if not preset.is_file():
        raise NotFoundError(f"no machine is called {on!r}", _known(), "give one, or a .toml file")
    return toml.load(preset)


def machine_names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (presets_folder() / "machines").glob("*.toml")))


def _known() -> str:
    return f"presets: {', '.join(machine_names())}"


def _with_gpus(machine: Machine, text: str, table: tuple[GpuFacts, ...]) -> Machine:
    if text.isdigit() and int(text) <= 16:
        if int(text) and not machine.gpus:
            raise UsageError(f"--gpu {text}: of which kind?", "", f"say `--gpu {text}x4090`")
        return _as_if_installed(with_gpus(machine, int(text), None))
    match = _GPUS.fullmatch(text.strip())
    count, name = (match[1], match[2]) if match else (None, text)
    facts = find_gpu(name, table)
    if facts is None:
        known = ", ".join(g.name for g in table)
        raise NotFoundError(f"no GPU is known as {name!r}", f"known: {known}", "or use --vram")
    return _as_if_installed(with_gpus(machine, int(count or 1), facts))


def _as_if_installed(machine: Machine) -> Machine:
    """An imagined GPU comes with an imagined SGLang."""
    if not machine.gpus or machine.engine("sglang"):
        return machine
    imagined = Engine("sglang", "", details={"assumed": "what if"})
    return replace(machine, engines=(*machine.engines, imagined))
