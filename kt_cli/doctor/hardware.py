"""Processor and memory: what there is, and what this process gets of it."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.machine import Cpu, Machine
from kt_cli.core.units import gb
from kt_cli.doctor.facts import Dimm, Facts
from kt_cli.doctor.finding import Finding, error, info, ok, warning
from kt_cli.doctor.slots import channels

LEAST_RAM = 8 * 10**9


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    yield _processor(machine.cpu)
    yield from _cores(machine)
    yield from _stolen(machine)
    yield from _memory(machine)
    yield from _nodes(machine)
    yield from _bandwidth(machine)
    yield from _channels(facts.dimms)
    yield from _speed(facts.dimms)


def best_isa(cpu: Cpu) -> str:
    """The widest instruction set that CPU expert kernels are written for."""
    if cpu.has("amx_int8", "amx_bf16"):
        return "AMX"
    if cpu.has("avx512f", "avx512bw", "avx512_vnni"):
        return "AVX-512 with VNNI"
    if cpu.has("avx512f", "avx512bw"):
        return "AVX-512"
    if cpu.has("avx2", "fma"):
        return "AVX2"
    return "Arm" if cpu.has("asimd") else ""


def _processor(cpu: Cpu) -> Finding:
    isa = best_isa(cpu)
    what = f"{cpu.model or 'processor'}: {cpu.total_cores} cores, {isa or 'no AVX2'}"
    if isa == "Arm":
        return warning(
            "cpu",
            what,
            why="the CPU expert kernels are written for x86-64, so PyTorch's slower ones are used",
        )
    if not isa:
        return error(
            "cpu",
            what,
            why="CPU expert kernels and PyTorch's fast paths need AVX2: imports may die of SIGILL",
            fix="use a processor of 2013 or later, or pass the host's CPU model to the guest",
        )
    return ok("cpu", what)


def _cores(machine: Machine) -> Iterator[Finding]:
    cpu = machine.cpu
    if cpu.why:
        yield info(
            "cores",
            what=f"{cpu.physical_cores} of {cpu.total_cores} cores may be used: {cpu.why}",
            why="prefill speed follows the number of cores; kt plans with these",
        )
    small = sum(1 for core in cpu.cores if core.efficiency)
    if small:
        yield info(
            "small-cores",
            what=f"{small} of {len(cpu.cores)} cores are small (efficiency) cores",
            why="threads wait for the slowest core, so more threads than large cores may not help",
        )


def _stolen(machine: Machine) -> Iterator[Finding]:
    measured, cores = machine.measured, machine.cpu.physical_cores
    if not measured.overbooked or cores <= (measured.unhindered or 0):
        return
    most = max(measured.stolen)
    plans = f"plans use {machine.threads} threads; " if machine.held_back else ""
    yield warning(
        "stolen-time",
        what=f"the hypervisor takes {measured.stolen[most]:.0%} of the CPUs' time "
        f"when all {most} are busy",
        why="threads wait for the one whose CPU is taken away: decode was measured to be 2 to 4 "
        "times slower than with fewer threads",
        fix=f"{plans}give the machine fewer vCPUs, or a host that is not overbooked",
    )


def _memory(machine: Machine) -> Iterator[Finding]:
    memory = machine.memory
    what = f"{gb(memory.total)} RAM, {gb(memory.available)} can be had now"
    if memory.limit is not None:
        what += f", {gb(memory.limit)} is the container's or cpuset's limit"
    if memory.usable < LEAST_RAM:
        yield warning(
            "memory",
            what,
            why="models beyond the demo need more: experts stay in RAM",
        )
    else:
        yield ok("memory", what)


def _nodes(machine: Machine) -> Iterator[Finding]:
    for node in machine.nodes:
        if node.memory and not node.cpus:
            yield info(
                "far-memory",
                what=f"NUMA node {node.id} has {gb(node.memory)} and no CPUs (CXL or a device)",
                why="it is slower than the CPUs' own memory, so no expert threads run for it",
            )


def _bandwidth(machine: Machine) -> Iterator[Finding]:
    every = machine.measured.read_gbs
    read = {n: gbs for n, gbs in every.items() if n <= machine.threads} or every
    if read:
        threads = max(read, key=lambda count: read[count])
        yield ok(
            "bandwidth",
            f"memory reads {read[threads]:.0f} GB/s with {threads} thread{'s' * (threads > 1)}",
            why="the ceiling of decode: a token reads its experts' weights once",
        )


def _channels(dimms: tuple[Dimm, ...]) -> Iterator[Finding]:
    found = channels(dimms)
    empty = sorted(name for name, filled in found.items() if not filled)
    if not found or len(empty) == len(found):
        return
    used = len(found) - len(empty)
    if empty:
        yield warning(
            "memory-channels",
            what=f"{used} of {len(found)} memory channels hold a module, empty: {', '.join(empty)}",
            why=f"decode speed follows memory bandwidth: about {used / len(found):.0%} of what the "
            "processor could read",
            fix="put at least one module of the same kind into every channel",
        )
    else:
        yield ok("memory-channels", f"all {used} memory channels hold a module")


def _speed(dimms: tuple[Dimm, ...]) -> Iterator[Finding]:
    slow = [d for d in dimms if d.size and 0 < d.running < d.rated]
    if slow:
        running, rated = min(d.running for d in slow), max(d.rated for d in slow)
        yield warning(
            "memory-speed",
            what=f"memory runs at {running} MT/s, its modules can do {rated}",
            why=f"decode speed follows memory bandwidth: about {running / rated:.0%} of the rated",
            fix="choose the modules' profile (XMP, EXPO) or their full speed in the firmware setup",
        )
