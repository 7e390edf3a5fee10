"""Captured machines as one text file each, unpacked into a directory that a `Host` reads.

A file is a row of sections:

    === proc/sys/kernel/hostname = box        a file of one line
    === sys/devices/system/node/node0/cpulist a file of the lines that follow
    === sys/…/cpu{0-3}/topology/core_id       one file per number; {i}, {i//2} … count in the text
    === proc/cpuinfo * 0-3                    one file, the lines repeated per number
    === remove proc/driver/nvidia             takes away what an included machine has
    === env, === nvml (JSON), === tool [EXIT CODE] ARGV, === disks, === host
    === engines                               JSON: environments, their packages, how imports end
    === measured                              JSON: what the measuring process prints
    === dimms                                 slot | bank | MiB | rated MT/s | running MT/s
    === include two-socket                    start from another machine
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from kt_cli.core.machine import Machine
from kt_cli.probe import bandwidth, cpulist, machine, stack
from kt_cli.probe.host import MISSING, Host, Ran

MACHINES = Path(__file__).parent.parent / "data" / "machines"
HOME = Path("/home/ada/.local/share/kt")


@dataclass
class Tree:
    root: Path
    env: dict[str, str] = field(default_factory=dict)
    tools: dict[str, Ran] = field(default_factory=dict)
    nvml: dict | None = None
    disks: dict[str, tuple[int, int]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    engines: list[dict] = field(default_factory=list)
    measured: str = ""

    def host(self, **env: str) -> Host:
        return Host(
            root=self.root,
            env={"HOME": "/home/ada", "HF_HOME": "/home/ada/hf", **self.env, **env},
            run=self._run,
            nvml=self._nvml,
            usage=self._usage,
            glibc=self.facts.get("glibc", "2.39"),
            python=self.facts.get("python", "3.12.3"),
        )

    def machine(self, **env: str) -> Machine:
        host = self.host(**env)
        found = machine(host=host, home=HOME, deep=True, environments=self.environments())
        limits = bandwidth.measure(host, found.cpu.physical_cores, 1 << 33, python="measure")
        return replace(found, measured=limits) if limits else found

    def environments(self) -> tuple[stack.Environment, ...]:
        return tuple(
            stack.Environment(
                e["name"], e["python"], tuple(self.root / s.lstrip("/") for s in e["sites"])
            )
            for e in self.engines
        )

    def _run(self, argv: Sequence[str], timeout: float) -> Ran:
        if ran := self.tools.get(" ".join(argv)):
            return ran
        if argv[0] == "measure":
            return Ran(0, self.measured) if self.measured else Ran(MISSING)
        if argv[-1].endswith("binding.py"):
            return self.tools.get("bind memory", Ran(0, "ok\n"))
        for engine in self.engines:
            if argv[0] == engine["python"]:
                return _inside(engine, argv)
        return Ran(MISSING)

    def _nvml(self) -> object:
        if self.nvml is None:
            raise ImportError("pynvml")
        return FakeNvml(self.nvml)

    def _usage(self, place: Path) -> tuple[int, int]:
        best = max((m for m in self.disks if place.is_relative_to(m)), key=len, default=None)
        if best is None:
            raise OSError(f"{place} is not readable")
        return self.disks[best]


def _inside(engine: dict, argv: Sequence[str]) -> Ran:
    """What probe/inside.py would print: a report per name until one ends the process."""
    names = [a for a in argv[1:] if not a.startswith("-") and not a.endswith(".py")]
    lines = []
    for name in names:
        report = engine["loads"].get(name, {})
        lines.append(json.dumps({"begin": name}))
        if "exit" in report:
            return Ran(report["exit"], "\n".join(lines))
        known = {"name": name, "version": "", "problem": "", "details": {}}
        lines.append(json.dumps({**known, **report}))
    return Ran(0, "\n".join(lines))


class FakeNvml:
    """NVML's functions over captured facts; an unknown fact raises as the real one does."""

    class NVMLError(Exception):
        pass

    def __init__(self, facts: dict) -> None:
        self.facts = facts

    def nvmlInit(self) -> None:
        if "error" in self.facts:
            raise self.NVMLError(self.facts["error"])

    def nvmlShutdown(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.facts["driver"]

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.facts["cuda"]

    def nvmlDeviceGetCount(self) -> int:
        return len(self.facts["devices"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict:
        device = self.facts["devices"][index]
        if "error" in device:
            raise self.NVMLError(device["error"])
        return device

    def nvmlDeviceGetMemoryInfo(self, device: dict) -> SimpleNamespace:
        return SimpleNamespace(total=device["total"], free=device["free"])

    def nvmlDeviceGetPciInfo(self, device: dict) -> SimpleNamespace:
        return SimpleNamespace(busId=device["bus"].encode())

    def nvmlDeviceGetMigMode(self, device: dict) -> list[int]:
        if "instances" not in device:
            raise self.NVMLError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, device: dict) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: dict, slot: int) -> dict:
        if slot >= len(device["instances"]):
            raise self.NVMLError("Not Found")
        return device["instances"][slot]

    def __getattr__(self, name: str) -> object:
        keys = {
            "nvmlDeviceGetName": "name",
            "nvmlDeviceGetUUID": "uuid",
            "nvmlDeviceGetCudaComputeCapability": "capability",
            "nvmlDeviceGetMaxPcieLinkGeneration": "gen",
            "nvmlDeviceGetCurrPcieLinkWidth": "width",
            "nvmlDeviceGetGpuMaxPcieLinkGeneration": "max_gen",
            "nvmlDeviceGetMaxPcieLinkWidth": "max_width",
            "nvmlDeviceGetNumGpuCores": "cores",
            "nvmlDeviceGetMaxClockInfo": "clock",
        }
        if name not in keys:
            raise AttributeError(name)
        key = keys[name]

        def ask(device: dict, *_: int) -> object:
            if key not in device:
                raise self.NVMLError("Not Supported")
            return device[key]

        return ask


class Forest:
    """Machines unpacked once each, for tests that only read them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trees: dict[str, Tree] = {}
        self.machines: dict[str, Machine] = {}

    def tree(self, name: str) -> Tree:
        if name not in self.trees:
            self.trees[name] = unpack(name, self.root / name)
        return self.trees[name]

    def machine(self, name: str, **env: str) -> Machine:
        if env:
            return self.tree(name).machine(**env)
        if name not in self.machines:
            self.machines[name] = self.tree(name).machine()
        return self.machines[name]


def names() -> list[str]:
    return sorted(path.stem for path in MACHINES.glob("*.txt"))


def unpack(name: str, root: Path) -> Tree:
    tree = Tree(root)
    for head, body in _sections((MACHINES / f"{name}.txt").read_text()):
        _put(tree, head, body)
    return tree


def _sections(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"^=== ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.startswith("include "):
            yield from _sections((MACHINES / f"{head.split()[1]}.txt").read_text())
        else:
            yield head, body.rstrip("\n")


def _put(tree: Tree, head: str, body: str) -> None:
    kind, _, rest = head.partition(" ")
    if kind == "env":
        tree.env |= dict(line.split("=", 1) for line in body.splitlines())
    elif kind == "nvml":
        tree.nvml = json.loads(body)
    elif kind == "engines":
        tree.engines = json.loads(body)
        _install(tree)
    elif kind == "measured":
        tree.measured = json.dumps(json.loads(body))
    elif kind == "dimms":
        for i, row in enumerate(body.splitlines()):
            place = tree.root / f"sys/firmware/dmi/entries/17-{i}/raw"
            place.parent.mkdir(parents=True)
            place.write_bytes(dimm(*(field.strip() for field in row.split("|"))))
    elif kind == "tool":
        code, found = re.match(r"(?:\[(-?\d+)\] )?(.*)", rest).groups()
        tree.tools[found] = Ran(int(code or 0), body)
    elif kind == "disks":
        rows = (line.split() for line in body.splitlines())
        tree.disks = {place: (int(total), int(free)) for place, total, free in rows}
        for place in tree.disks:
            (tree.root / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
    elif kind == "host":
        tree.facts |= dict(line.split(maxsplit=1) for line in body.splitlines())
    elif kind == "remove":
        place = tree.root / rest
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    else:
        _file(tree.root, head, body)


def _install(tree: Tree) -> None:
    """An empty distribution for each package, with the requirements that are given."""
    for environment in tree.engines:
        for name, version in environment["packages"].items():
            folder = f"{name.replace('-', '_')}-{version}.dist-info"
            wants = environment.get("requires", {}).get(name, [])
            lines = [f"Name: {name}", *(f"Requires-Dist: {want}" for want in wants)]
            _write(
                tree.root / environment["sites"][0].lstrip("/") / folder / "METADATA",
                "\n".join(lines),
            )


def dimm(slot: str, bank: str, mib: str, rated: str, running: str) -> bytes:
    """A memory device as SMBIOS 3.3 lays it out."""
    size = int(mib)
    body = bytearray(84)
    body[0:2] = bytes([17, len(body)])
    body[12:14] = (0x7FFF if size > 0x7FFE else size).to_bytes(2, "little")
    body[16:18] = bytes([1, 2])
    body[21:23] = int(rated).to_bytes(2, "little")
    body[28:32] = size.to_bytes(4, "little")
    body[32:34] = int(running).to_bytes(2, "little")
    return bytes(body) + slot.encode() + b"\0" + bank.encode() + b"\0\0"


def _file(root: Path, head: str, body: str) -> None:
    path, equals, value = head.partition(" = ")
    path, star, repeat = path.partition(" * ")
    text = value if equals else body
    counted = re.search(r"\{([\d,-]+)\}", path)
    if star:
        _write(root / path, "\n\n".join(_filled(text, i) for i in cpulist.parse(repeat)))
    elif counted:
        for i in cpulist.parse(counted[1]):
            _write(root / path.replace(counted[0], str(i)), _filled(text, i))
    else:
        _write(root / path, text)


def _filled(text: str, i: int) -> str:
    return re.sub(r"\{(i[^{}]*)\}", lambda found: str(eval(found[1], {"i": i})), text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
