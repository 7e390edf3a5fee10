"""`Machine` to and from TOML, in a form that a person can write by hand.

CPU numbers are the kernel's lists. Cores that are alike stand in one table: `threads` holds a list
for the first hardware thread of every core, one for the second, and so on:

    [[cpu.cores]]
    node = 0
    threads = ["0-47", "96-143"]    # core 0 is CPUs 0 and 96
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kt_cli.core.machine import Core, Machine
from kt_cli.core.serial import ShapeError, from_plain, to_plain
from kt_cli.documents import Record, Source, parse_toml, read_toml
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.probe import cpulist


def load(path: Path) -> Machine:
    """NotFoundError without the file, UsageError naming file and field for what is wrong in it."""
    fix = "write one with `kt doctor --save FILE`"
    try:
        return _machine(read_toml(path, Source(f"the machine file {path}", fix, UsageError)))
    except NotFoundError as error:
        raise NotFoundError(f"the machine file {path} does not exist", fix=fix) from error
    except ValueError as error:
        raise UsageError(f"the machine file {path} is not valid", str(error), fix) from error


def loads(text: str) -> Machine:
    """ShapeError, a ValueError, names the field; KtError tells that it is no TOML."""
    return _machine(parse_toml(text.encode(), Source("the machine")))


def _machine(record: Record) -> Machine:
    return from_plain(Machine, _expanded(dict(record.values)), "machine")


def dump(machine: Machine) -> str:
    return write(_folded(machine))


def write(data: Mapping[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(data)


def _folded(machine: Machine) -> dict[str, Any]:
    data: dict[str, Any] = to_plain(machine)
    data["nodes"] = [
        {**plain, "cpus": cpulist.format(node.cpus)}
        for plain, node in zip(data["nodes"], machine.nodes, strict=True)
    ]
    groups = _groups(machine.cpu.cores)
    if _cores(groups, "") == list(machine.cpu.cores):
        data["cpu"]["cores"] = groups
    return data


def _groups(cores: tuple[Core, ...]) -> list[dict[str, Any]]:
    alike: dict[tuple[int, int, bool, int], list[Core]] = {}
    for core in cores:
        key = (core.node, core.socket, core.efficiency, len(core.cpus))
        alike.setdefault(key, []).append(core)
    return [
        {
            "node": node,
            "socket": socket,
            **({"efficiency": True} if small else {}),
            "threads": [cpulist.format(core.cpus[i] for core in group) for i in range(threads)],
        }
        for (node, socket, small, threads), group in alike.items()
    ]


def _expanded(data: dict[str, Any]) -> dict[str, Any]:
    cpu = data.get("cpu")
    if isinstance(cpu, dict) and isinstance(cpu.get("cores"), list):
        plain = [to_plain(core) for core in _cores(cpu["cores"], "machine.cpu.cores")]
        data["cpu"] = {**cpu, "cores": plain}
    nodes = data.get("nodes")
    if isinstance(nodes, list):
        data["nodes"] = [
            {**node, "cpus": list(_list(node["cpus"], f"machine.nodes[{i}].cpus"))}
            if isinstance(node, dict) and isinstance(node.get("cpus"), str)
            else node
            for i, node in enumerate(nodes)
        ]
    return data


def _cores(groups: list[Any], where: str) -> list[Core]:
    """Folded cores are ordered by first CPU, as the probe orders them."""
    cores: list[Core] = []
    for position, group in enumerate(groups):
        cores += _group(group, f"{where}[{position}]")
    folded = any(isinstance(group, dict) and "threads" in group for group in groups)
    return sorted(cores, key=lambda core: core.cpus) if folded else cores


def _group(group: Any, where: str) -> list[Core]:
    if not isinstance(group, dict) or "threads" not in group:
        return [from_plain(Core, group, where)] if isinstance(group, dict) else _refuse(where)
    rest = {key: value for key, value in group.items() if key != "threads"}
    lists = group["threads"]
    if not isinstance(lists, list) or not lists:
        _refuse(f"{where}.threads")
    threads = [_list(text, f"{where}.threads[{i}]") for i, text in enumerate(lists)]
    if len({len(numbers) for numbers in threads}) != 1:
        raise ShapeError(f"{where}.threads names more CPUs in one list than in another")
    return [
        from_plain(Core, {**rest, "cpus": list(cpus)}, where) for cpus in zip(*threads, strict=True)
    ]


def _list(text: Any, where: str) -> tuple[int, ...]:
    try:
        return cpulist.parse(text) if isinstance(text, str) else _refuse(where)
    except ShapeError:
        raise
    except ValueError as error:
        raise ShapeError(f"{where}: {error}") from error


def _refuse(where: str) -> Any:
    raise ShapeError(f"{where} is not a list of CPUs such as 0-47")
