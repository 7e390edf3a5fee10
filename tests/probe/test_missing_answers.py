"""Every answer from outside may be missing or garbage: the machine is probed and planned anyway."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kt_cli.catalog import find
from kt_cli.core.machine import Machine
from kt_cli.core.plan_run import plan_run
from kt_cli.core.what_if import completed
from kt_cli.doctor import check
from kt_cli.doctor.gather import gather
from kt_cli.engines import sglang
from kt_cli.engines.facts import read_facts, read_gpus
from kt_cli.options import RunOptions
from kt_cli.probe import counters, held, live, machine
from kt_cli.probe.host import MISSING, Host, Ran
from tests.probe.trees import HOME, FakeNvml, Tree, names, unpack

GARBAGE = ("", "-1", "garbage \x00 text", "9" * 40, "0-99999999999", "[[" * 2000, "\u00b2")


PLANNED: set[str] = set()


@cache
def gpus() -> Any:
    return read_gpus()


@cache
def model() -> Any:
    return find("Qwen3-30B-A3B")


def planned(found: Machine) -> None:
    """A plan comes, whatever it says. The same machine is planned once: plans follow from it."""
    if (text := repr(found)) in PLANNED:
        return
    PLANNED.add(text)
    full = completed(sglang.judged(found), gpus())
    for engine in (None, "embedded"):
        plan_run(full, model(), RunOptions(engine=engine), read_facts())


def broken(kind: str) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        if kind == "unsupported":
            raise FakeNvml.NVMLError("Not Supported")
        if kind == "system":
            raise OSError(5, "Input/output error")
        return {"none": None, "bytes": b"\xff\xfe", "negative": -1, "huge": 10**30,
                "object": object(), "pair": ["x", None], "nan": float("nan")}[kind]  # fmt: skip

    return function


KINDS = (
    *("missing", "unsupported", "system"),
    *("none", "bytes", "negative", "huge", "object", "pair", "nan"),
)
VITAL = {"nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"}
FUNCTIONS = sorted(
    {
        name
        for file in Path(live.__file__).parent.glob("*.py")
        for name in re.findall(r'"(nvml[A-Z]\w+)"', file.read_text())
    }
)


class Lacking:
    """NVML with one function that is not there or fails."""

    def __init__(self, facts: dict[str, Any], name: str, kind: str) -> None:
        self._whole, self._name, self._kind = FakeNvml(facts), name, kind

    def __getattr__(self, name: str) -> Any:
        if name != self._name:
            return getattr(self._whole, name)
        if self._kind == "missing":
            raise AttributeError(name)
        return broken(self._kind)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_missing_answer_of_nvml_loses_the_gpus(forest, name: str) -> None:
    assert len(FUNCTIONS) >= 18
    for tree in map(forest.tree, ("two-socket", "mig")):
        whole = len(tree.machine().gpus)
        for kind in KINDS:
            host = replace(tree.host(), nvml=lambda k=kind, t=tree: Lacking(t.nvml, name, k))
            found = machine(host=host, home=HOME, environments=())
            planned(found)
            live.sample(host)
            held.gpu_memory({1, 2}, host)
            if name not in VITAL and "Mig" not in name:
                assert len(found.gpus) == whole, (kind, found.problems)
            elif name in VITAL:
                assert found.gpus or found.problems or kind not in ("missing", "unsupported")


@pytest.mark.parametrize("error", [ImportError("x"), OSError("x"), SyntaxError("x")], ids=repr)
def test_a_binding_that_does_not_load_is_a_problem(forest, error: Exception) -> None:
    def load() -> Any:
        raise error

    host = replace(forest.tree("two-socket").host(), nvml=load)
    found = machine(host=host, home=HOME, environments=())
    assert not found.gpus and "nvidia-ml-py" in found.problems[0]
    planned(found)


def test_a_gpu_without_memory_of_its_own_works_in_the_systems(forest) -> None:
    tree = forest.tree("two-socket")
    host = replace(
        tree.host(), nvml=lambda: Lacking(tree.nvml, "nvmlDeviceGetMemoryInfo", "unsupported")
    )
    found = machine(host=host, home=HOME, environments=())
    assert all(g.unified and g.memory == found.memory.total for g in found.gpus)
    assert not found.problems


# Files


class Watched:
    """Which files a probe reads below a root."""

    def __init__(self, tree: Tree) -> None:
        self.read: dict[str, str] = {}
        self.tree = tree

    def host(self) -> Host:
        return self._Host(**{f: getattr(self.tree.host(), f) for f in Host.__slots__}, seen=self)

    class _Host(Host):
        __slots__ = ("seen",)

        def __init__(self, *, seen: Watched, **fields: Any) -> None:
            super().__init__(**fields)
            object.__setattr__(self, "seen", seen)

        def path(self, name: str) -> Path:
            found = super().path(name)
            if found.is_file():
                self.seen.read.setdefault(re.sub(r"\d+", "N", name), name)  # type: ignore[attr-defined]
            return found


def everything(host: Host) -> Machine:
    found = machine(host=host, home=HOME, environments=())
    live.sample(host)
    counters.events(host)
    held.held([1], host)
    check(found, gather(host, found, (), speed=None))
    return found


def damaged(path: Path) -> Iterator[str]:
    """The file in every state in which it could be found; it is whole again in the end."""
    whole = path.read_bytes()
    try:
        for text in GARBAGE:
            path.write_text(text)
            yield repr(text[:20])
        path.write_bytes(b"\xff\xfe\x00" * 9)
        yield "bytes"
        path.write_bytes(whole[: len(whole) // 2])
        yield "half"
        path.write_bytes(re.sub(rb"\d+", b"99999999999999999999", whole))
        yield "huge numbers"
        path.write_bytes(re.sub(rb"\d+", b"x", whole))
        yield "no numbers"
        path.unlink()
        path.mkdir()
        yield "a folder"
        path.rmdir()
        path.symlink_to(path.name)
        yield "a loop"
        path.unlink()
        yield "missing"
    finally:
        if not path.is_symlink():
            path.unlink(missing_ok=True)
        path.write_bytes(whole)


def test_no_missing_or_odd_file_ends_the_probe(tmp_path: Path) -> None:
    """Files of one kind, such as those of each CPU, are damaged once, on the first machine."""
    known: set[str] = set()
    for name in names():
        tree = unpack(name, tmp_path / name)
        watched = Watched(tree)
        everything(watched.host())
        for kind in sorted(watched.read.keys() - known):
            file = watched.read[kind]
            for state in damaged(tree.root / file.lstrip("/")):
                try:
                    planned(everything(tree.host()))
                except Exception as error:
                    raise AssertionError(f"{name} {file}: {state}") from error
        known |= watched.read.keys()
    assert len(known) > 60


# Tools


def odd_answers(ran: Ran) -> Iterator[Ran]:
    yield from (Ran(MISSING), Ran(124), Ran(-11), Ran(1, ran.out))
    yield from (Ran(0, text) for text in (*GARBAGE, "null", "[]", "{}", "[1]", '{"card0": 1}'))
    yield Ran(0, ran.out[: len(ran.out) // 2])
    yield Ran(0, re.sub(r"\d+", "x", ran.out))
    for key in set(re.findall(r'"([^"]+)"\s*:', ran.out)):
        for value in ("null", "[]", '"x"', "-1", "1e999", "{}"):
            yield Ran(
                0,
                re.sub(rf'("{re.escape(key)}"\s*:\s*)("[^"]*"|[\d.]+)', rf"\g<1>{value}", ran.out),
            )


@pytest.mark.parametrize("name", [n for n in names() if n in ("rocm-smi", "arc", "ascend")])
def test_no_odd_answer_of_a_tool_ends_the_probe(forest, name: str) -> None:
    tree = forest.tree(name)
    for argv, ran in tree.tools.items():
        for odd in odd_answers(ran):
            tools = {**tree.tools, argv: odd}
            host = replace(tree, tools=tools).host()
            planned(machine(host=host, home=HOME, environments=()))
