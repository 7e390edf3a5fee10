"""The machine a plan is for: this one, a preset, a file, and what-ifs on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kt_cli.core.facts import GpuFacts
from kt_cli.core.hardware import counted, cpu_named, gpu_named, near, parse_disk, sized
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.units import Size, gb
from kt_cli.core.what_if import completed, with_cpu, with_disk, with_gpus, with_ram, with_vram
from kt_cli.engines.facts import presets_folder, read_cpus, read_gpus
from kt_cli.engines.registry import judged
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.opts import opt, parse_preset_or_path
from kt_cli.workflow.sizes import parse_memory

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
    cpu: str | None = opt(
        "--cpu",
        help="Plan for these processors, such as 9950x, 14900k, epyc-9654 or 2x6454s",
        metavar="CPU",
        panel=WHAT_IF,
    )
    ram: int | None = opt(
        "--ram",
        help="Plan for this much RAM, such as 96GB or 256 (GB)",
        parse=parse_memory,
        metavar="SIZE",
        panel=WHAT_IF,
    )
    vram: int | None = opt(
        "--vram",
        help="Plan for this much memory on each GPU",
        parse=parse_memory,
        metavar="SIZE",
        panel=WHAT_IF,
    )
    gpu: str | None = opt(
        "--gpu",
        help="Plan for these GPUs, such as 0, 2, 4090, 5060ti-16g, 7900xtx or 2x5090",
        panel=WHAT_IF,
    )
    disk: str | None = opt(
        "--disk",
        help="Plan for this disk, by kind, rate or size: nvme, nvme:7GB/s, sata,2TB",
        metavar="DISK",
        panel=WHAT_IF,
    )


def machine_for(options: MachineOptions, home: Path) -> Machine:
    """Raises NotFoundError or UsageError for what cannot be understood."""
    table = read_gpus()
    machine = base_machine(options.on, home)
    if options.cpu is not None:
        machine = _with_cpu(machine, options.cpu)
    if options.gpu is not None:
        machine = _with_gpus(machine, options.gpu, table)
    if options.vram is not None:
        if not machine.gpus:
            raise UsageError("--vram without a GPU", "", "add `--gpu 4090`, say")
        machine = with_vram(machine, options.vram)
    if options.ram is not None:
        machine = with_ram(machine, options.ram)
    if options.disk is not None:
        machine = _with_disk(machine, options.disk)
    return _renamed(completed(machine, table), options)


def _renamed(machine: Machine, options: MachineOptions) -> Machine:
    """What was asked for stands in the name, sizes in the unit they were given in."""
    parts = [
        f"CPU {machine.cpu.model}" if options.cpu else "",
        f"RAM {_given(options.ram)}" if options.ram else "",
        f"GPU {options.gpu}" if options.gpu not in (None, "0") else "",
        "no GPU" if options.gpu == "0" else "",
        f"VRAM {_given(options.vram)}" if options.vram else "",
        f"disk {options.disk}" if options.disk else "",
    ]
    asked = ", ".join(filter(None, parts))
    return replace(machine, name=f"{machine.name} with {asked}") if asked else machine


def _given(size: int) -> str:
    return size.text if isinstance(size, Size) else gb(size)


def base_machine(on: str | None, home: Path) -> Machine:
    from kt_cli import probe
    from kt_cli.probe import toml

    if on is None:
        return judged(probe.machine(home=home))
    path = Path(on).expanduser()
    if path.suffix == ".toml" or "/" in on:
        return toml.load(path)
    preset = presets_folder() / "machines" / f"{on.lower()}.toml"
    if not preset.is_file():
        close = near(on, machine_names())
        why = f"near are {', '.join(close)}" if close else _known()
        raise NotFoundError(f"no machine is called {on!r}", why, "give one, or a .toml file")
    return toml.load(preset)


def machine_names() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in (presets_folder() / "machines").glob("*.toml")))


def _known() -> str:
    return f"presets: {', '.join(machine_names())}"


def _with_cpu(machine: Machine, text: str) -> Machine:
    count, name = counted(text)
    facts = cpu_named(name, read_cpus())
    if facts is None:
        raise _nothing("processor", name, [c.full_name for c in read_cpus()], "--cpu 9950x")
    if count not in (1, 2, 4, 8):
        raise UsageError(f"--cpu {text}: {count} processors", "", "1, 2, 4 or 8 sockets exist")
    return replace(with_cpu(machine, facts, count), source=f"what if: {facts.source}")


def _with_disk(machine: Machine, text: str) -> Machine:
    try:
        wish = parse_disk(text)
        size = parse_memory(wish.size) if wish.size else None
    except ValueError as error:
        raise UsageError(
            f"--disk {text} is not understood", str(error), "such as nvme:7GB/s,2TB"
        ) from error
    return with_disk(machine, wish.gbs, size, wish.rotational)


def _nothing(kind: str, name: str, names: Sequence[str], example: str) -> NotFoundError:
    close = near(name, names)
    why = f"near are {', '.join(close)}" if close else f"{len(names)} are known, none like it"
    return NotFoundError(f"no {kind} is known as {name!r}", why, f"such as `{example}`")


def _with_gpus(machine: Machine, text: str, table: tuple[GpuFacts, ...]) -> Machine:
    if text.isdigit() and int(text) <= 16:
        if int(text) and not machine.gpus:
            raise UsageError(f"--gpu {text}: of which kind?", "", f"say `--gpu {text}x4090`")
        return _as_if_installed(with_gpus(machine, int(text), None))
    count, name = counted(text)
    facts = _gpu(name, table)
    return _as_if_installed(with_gpus(machine, count, facts))


def _gpu(text: str, table: tuple[GpuFacts, ...]) -> GpuFacts:
    """With the memory that the name asks for, first of its sizes."""
    whole = gpu_named(text, table)
    name, size = (text, None) if whole else sized(text)
    facts = whole or gpu_named(name, table)
    if facts is None:
        raise _nothing("GPU", name, [g.name for g in table], "--gpu 4090") from None
    if size is None:
        return facts
    if size not in facts.sizes_gib:
        sizes = " or ".join(f"{s:g}" for s in facts.sizes_gib)
        raise NotFoundError(f"no {facts.name} has {size} GiB", f"it has {sizes}", "or use --vram")
    return replace(facts, sizes_gib=(float(size),))


def _as_if_installed(machine: Machine) -> Machine:
    """An imagined GPU comes with an imagined SGLang."""
    if not machine.gpus or machine.engine("sglang"):
        return machine
    imagined = Engine("sglang", "", details={"assumed": "what if"})
    return replace(machine, engines=(*machine.engines, imagined))
