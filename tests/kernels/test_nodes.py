"""Machines with several memory nodes, from trees as sysfs has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe._native import core

from .helpers import random_case, random_matrices

CPUS = sorted(os.sched_getaffinity(0))
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="one CPU")


@dataclass(frozen=True)
class Tree:
    """node → its CPUs as sysfs lists them; `memory`: the nodes that have some."""

    cpus: dict[int, str]
    memory: str = ""
    siblings: dict[int, str] = field(default_factory=dict)
    distance: dict[int, str] = field(default_factory=dict)

    def write(self, root: Path) -> str:
        folder = root / "devices/system/node"
        folder.mkdir(parents=True)
        nodes = ",".join(str(n) for n in self.cpus)
        (folder / "online").write_text(nodes + "\n")
        (folder / "has_memory").write_text((self.memory or nodes) + "\n")
        for n, cpus in self.cpus.items():
            (folder / f"node{n}").mkdir()
            (folder / f"node{n}/cpulist").write_text(cpus + "\n")
            (folder / f"node{n}/distance").write_text(self.distance.get(n, "10 20 30") + "\n")
        for cpu, siblings in self.siblings.items():
            own = root / f"devices/system/cpu/cpu{cpu}/topology"
            own.mkdir(parents=True)
            (own / "thread_siblings_list").write_text(siblings + "\n")
        return str(root)


@pytest.fixture
def sysfs(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "sys"
    core().use_sysfs("")
    kt_moe.set_threads(1)
    kt_moe.set_threads(0)


@pytest.mark.parametrize(
    ("tree", "cores", "memory", "wanted"),
    [
        (Tree({0: "0-3", 1: "4-7"}), [*range(8)], [], {0: [0, 1, 2, 3], 1: [4, 5, 6, 7]}),
        (Tree({0: "0-3", 1: "4-7"}), [2, 3, 4], [], {0: [2, 3], 1: [4]}),  # a cpuset
        (Tree({0: "0-3", 1: "4-7"}), [0, 1], [], {0: [0, 1]}),
        (Tree({0: "0-3", 1: "4-7"}), [0, 5], [1], {1: [0, 5]}),  # memory of one node only
        (Tree({0: "0-3", 1: ""}), [0, 1, 2], [], {0: [0, 1, 2]}),  # a node without CPUs
        (
            Tree({0: "0", 1: "1", 2: "2"}, memory="0,2", distance={1: "30 10 20"}),
            [0, 1, 2],
            [],
            {0: [0], 2: [1, 2]},  # node 1 has no memory, node 2 is nearest
        ),
        (Tree({0: "0-1", 1: "2-3"}), [0, 2, 9], [], {0: [0, 9], 1: [2]}),  # a CPU of no node
    ],
)
def test_cores_belong_to_nodes_with_memory(
    tree: Tree, cores: list[int], memory: list[int], wanted: dict[int, list[int]], tmp_path: Path
) -> None:
    assert dict(core().read_nodes(tree.write(tmp_path), cores, memory)) == wanted


def test_without_sysfs_there_is_one_node(tmp_path: Path) -> None:
    assert dict(core().read_nodes(str(tmp_path / "none"), [3, 5], [])) == {0: [3, 5]}


@needs_two
def test_rows_are_divided_by_cores(sysfs: Path) -> None:
    rest = ",".join(str(c) for c in CPUS[1:])
    core().use_sysfs(Tree({0: str(CPUS[0]), 4: rest}).write(sysfs))
    assert kt_moe.cpu_info()["nodes"] == {0: CPUS[:1], 4: CPUS[1:]}
    n = len(CPUS)
    assert core().home(640, 256) == ([0, 4 // n, 4], [0, 10 // n, 10])


@needs_two
@pytest.mark.parametrize("fmt", ["bf16", "int8", "int4", "int4-bf16"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_results_do_not_depend_on_the_nodes(
    isa: str, fmt: str, nodes: int, sysfs: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    matrices = random_matrices(rng, 5, 192, 320)
    cases = [random_case(rng, t, 192, 5, 2) for t in (1, 3, 40)]

    def outputs(experts: kt_moe.Experts) -> list[np.ndarray]:
        return [experts.forward(c.x, c.ids, c.weights) for c in cases]

    def packed() -> kt_moe.Experts:
        up, _, down = fmt.partition("-")
        return kt_moe.Experts.from_weights(*matrices, format=up, down_format=down or None, top_k=2)

    kt_moe.set_threads(1)  # many threads take narrower units, and with them other scales of int8
    one = packed()
    one.save(tmp_path / "layer")
    wanted = outputs(one)
    # Where there are fewer CPUs than nodes the last one has none here, and its part goes elsewhere.
    lists = {n: str(CPUS[n]) if n < len(CPUS) else "" for n in range(nodes)}
    core().use_sysfs(Tree(lists).write(sysfs))
    for threads in (2, 3, 1):
        kt_moe.set_threads(threads)
        for several in (packed(), kt_moe.Experts.load(tmp_path / "layer")):
            for got, want in zip(outputs(several), wanted, strict=True):
                np.testing.assert_array_equal(got, want)
        for got, want in zip(outputs(one), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


@needs_two
def test_memory_that_cannot_be_had_by_node_is_told_and_harms_nothing(
    sysfs: Path, rng: np.random.Generator
) -> None:
    """No machine has node 900: the system refuses it, as a container may refuse the call."""
    core().use_sysfs(Tree({0: str(CPUS[0]), 900: str(CPUS[1])}).write(sysfs))
    case = random_case(rng, 3, 96, 4, 2)
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, 4, 96, 80), format="int8", top_k=2)
    assert np.isfinite(experts.forward(case.x, case.ids, case.weights)).all()
    assert kt_moe.cpu_info()["memory_refused"] == "Invalid argument"
