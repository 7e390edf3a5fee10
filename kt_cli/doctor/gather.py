"""Reads doctor's facts. Everything that may hang or die is asked in a process of its own."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kt_cli.core.machine import Machine
from kt_cli.doctor import dmi, reading
from kt_cli.doctor.facts import Facts, Hub, Packages
from kt_cli.probe import answers
from kt_cli.probe.host import Host
from kt_cli.probe.stack import Environment, distributions

BINDING = Path(__file__).with_name("binding.py")
_PIN = re.compile(r"^Requires-Dist: ([\w.-]+)\s*\(?==\s*([^\s;,)]+)\)?\s*(;.*)?$", re.MULTILINE)


def gather(
    host: Host,
    machine: Machine,
    environments: Sequence[Environment],
    *,
    ask_hub: Callable[[Mapping[str, str]], Hub] | None = None,
    speed: Callable[[Path], float | None] | None = reading.speed,
    now: Callable[[], float] = time.time,
) -> Facts:
    """`ask_hub` is None to stay off the network, `speed` None to leave the disks alone."""
    places = [Path(disk.path) for disk in machine.disks]
    return Facts(
        limits=limits(host.text("/proc/self/limits")),
        shm=shared_memory(host),
        scaling_driver=host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver"),
        binding=binding(host),
        dimms=dmi.read(host),
        scripts=scripts(host),
        packages=tuple(packages(environment) for environment in environments),
        read_gbs=speeds(places, speed) if speed else {},
        hub=ask_hub(host.env) if ask_hub else None,
        now=now(),
        installed=Path(__file__).stat().st_mtime,
    )


def limits(text: str) -> dict[str, tuple[float, float]]:
    """/proc/self/limits: name, soft and hard limit, unit, in columns two spaces apart."""
    found = {}
    for line in text.splitlines()[1:]:
        fields = re.split(r"\s{2,}", line.strip())
        if len(fields) >= 3:
            found[fields[0]] = (_limit(fields[1]), _limit(fields[2]))
    return found


def shared_memory(host: Host) -> int | None:
    if not host.exists("/dev/shm"):
        return None
    try:
        return host.usage(Path("/dev/shm"))[0]
    except (OSError, ValueError):
        return None


def binding(host: Host) -> str | None:
    """Empty when memory can be bound to a node, else why not; None when it cannot be tried."""
    ran = host.run((sys.executable, str(BINDING)), 10.0)
    if ran.code < 0:
        return f"the call {ran.problem}"
    said = ran.out.strip()
    return None if ran.code or not said else said.removeprefix("ok")


def scripts(host: Host) -> tuple[tuple[str, str], ...]:
    found = []
    for entry in host.env.get("PATH", "").split(":"):
        script = f"{entry.rstrip('/')}/kt"
        if entry and host.is_file(script):
            imported = re.search(r"^\s*from (\w+)", host.text(script), re.MULTILINE)
            found.append((script, imported[1] if imported else ""))
    return tuple(found)


def packages(environment: Environment) -> Packages:
    versions = distributions(environment)
    pins = {name: found for name in versions if (found := _pins(environment, name, versions[name]))}
    return Packages(environment.name, environment.python, versions, pins)


def speeds(places: Sequence[Path], speed: Callable[[Path], float | None]) -> dict[str, float]:
    """Each file system is read once."""
    known: dict[int, float | None] = {}
    found = {}
    for place in places:
        there = next((p for p in (place, *place.parents) if p.is_dir()), Path("/"))
        device = there.stat().st_dev
        if device not in known:
            known[device] = speed(there)
        measured = known[device]
        if measured is not None:
            found[str(place)] = measured
    return found


def _pins(environment: Environment, name: str, version: str) -> dict[str, str]:
    """Exact requirements without a condition, of the distributions whose pins matter."""
    from kt_cli.doctor.needs import PINNED

    if name not in PINNED:
        return {}
    file = f"{name.replace('-', '_')}-{version}.dist-info/METADATA"
    for site in environment.sites:
        try:
            text = (site / file).read_text(errors="replace").partition("\n\n")[0]
        except OSError:
            continue
        return {
            found[1].lower().replace("_", "-"): found[2]
            for found in _PIN.finditer(text)
            if not found[3]
        }
    return {}


def _limit(text: str) -> float:
    return float("inf") if text == "unlimited" else float(answers.number(text) or 0)
