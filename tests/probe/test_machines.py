"""What the probe says of each captured machine, to the last core and byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kt_cli.core.machine import Machine
from kt_cli.probe import cpulist, toml
from tests.probe import trees

GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture
def captured(forest: trees.Forest) -> Callable[..., Machine]:
    return forest.machine


# name: (cores allowed, cores, threads, sockets, keepable busy, nodes, worker nodes)
CPUS = {
    "laptop": (14, 14, 20, 1, 14, 1, [0]),
    "desktop": (16, 16, 32, 1, 16, 1, [0]),
    "smt-off": (32, 32, 32, 1, 32, 1, [0]),
    "two-socket": (96, 96, 192, 2, 96, 2, [0, 1]),
    "snc4": (56, 56, 112, 1, 56, 4, [0, 1, 2, 3]),
    "cxl": (64, 64, 128, 1, 64, 2, [0]),
    "nps4": (96, 96, 192, 1, 96, 4, [0, 1, 2, 3]),
    "container-v1": (96, 96, 192, 2, 8, 2, [0, 1]),
    "container-v2": (96, 96, 192, 2, 8, 2, [0, 1]),
    "cpuset": (7, 96, 192, 2, 7, 2, [0]),
    "unequal-gpus": (16, 16, 32, 1, 16, 1, [0]),
    "mig": (32, 32, 32, 1, 32, 1, [0]),
    "gh200": (72, 72, 72, 1, 72, 2, [0]),
    "rocm": (96, 96, 192, 2, 96, 2, [0, 1]),
    "rocm-smi": (16, 16, 32, 1, 16, 1, [0]),
    "ascend": (192, 192, 192, 2, 192, 4, [0, 1, 2, 3]),
    "arc": (16, 16, 32, 1, 16, 1, [0]),
    "h100-vm": (16, 16, 16, 1, 16, 1, [0]),
    "no-numa": (2, 2, 4, 1, 2, 1, [0]),
}


@pytest.mark.parametrize("name", CPUS)
def test_cores_and_nodes(captured, name: str) -> None:
    machine = captured(name)
    cpu = machine.cpu
    busy = cpu.physical_cores
    workers = [node.id for node in machine.worker_nodes]
    seen = (len(cpu.cores), cpu.total_cores, cpu.total_threads, cpu.sockets, busy)
    assert (*seen, len(machine.nodes), workers) == CPUS[name]


# name: (total, available, limit) in GiB
MEMORY = {
    "laptop": (31.0, 22.0, None),
    "two-socket": (1055.0, 1015.0, None),
    "cxl": (640.0, 620.0, None),
    # 64 GiB − 20 used + 12 of page cache that the kernel drops on demand
    "container-v1": (1055.0, 60.0, 64.0),
    "container-v2": (1055.0, 60.0, 64.0),
    # the cpuset's memory is that of node 0
    "cpuset": (1055.0, 510.0, 527.0),
    # the GPU's own 96 GiB are not RAM
    "gh200": (480.0, 465.0, None),
    "no-numa": (16.0, 12.0, None),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_can_be_had(captured, name: str) -> None:
    memory = captured(name).memory
    limit = None if memory.limit is None else memory.limit / GIB
    assert (memory.total / GIB, memory.available / GIB, limit) == MEMORY[name]


# per GPU: name, vendor, memory and free in MiB, capability, generation, width, node, uuid's head
GPUS = {
    "laptop": [],
    "desktop": [("NVIDIA GeForce RTX 4090", "nvidia", 24564, 23800, (8, 9), 4, 16, 0, "GPU-4f1a")],
    "two-socket": [
        ("NVIDIA GeForce RTX 4090", "nvidia", 24564, 24100, (8, 9), 4, 16, 1, "GPU-b8b8")
    ],
    "nps4": [("NVIDIA RTX A6000", "nvidia", 49140, 48600, (8, 6), 4, 16, 2, "GPU-4141")],
    "unequal-gpus": [
        ("NVIDIA GeForce RTX 4090", "nvidia", 24564, 23800, (8, 9), 4, 8, 0, "GPU-4090"),
        ("NVIDIA GeForce RTX 3090", "nvidia", 24576, 24000, (8, 6), 4, 8, 0, "GPU-3090"),
    ],
    "mig": [
        ("NVIDIA A100 80GB PCIe MIG 3g.40gb", "nvidia", 40192, 40100, (8, 0), 4, 16, 0, "MIG-1111"),
        ("NVIDIA A100 80GB PCIe MIG 2g.20gb", "nvidia", 19968, 19900, (8, 0), 4, 16, 0, "MIG-2222"),
        ("NVIDIA A100 80GB PCIe", "nvidia", 81920, 81000, (8, 0), 4, 16, 0, "GPU-whol"),
    ],
    "gh200": [("NVIDIA GH200 480GB", "nvidia", 97871, 97000, (9, 0), 5, 16, 0, "GPU-6400")],
    "h100-vm": [("NVIDIA H100 80GB HBM3", "nvidia", 81559, 81079, (9, 0), 5, 16, 0, "GPU-aa06")],
    "rocm": [
        ("AMD Instinct MI300X OAM", "amd", 196592, 196308, (9, 4), 5, 16, 0, "GPU-e1d0"),
        ("AMD Instinct MI300X OAM", "amd", 196592, 177518, (9, 4), 5, 16, 1, "GPU-0a1d"),
    ],
    "rocm-smi": [("Radeon RX 7900 XTX", "amd", 24560, 23271, (11, 0), None, None, 0, "GPU-5f3e")],
    "ascend": [
        ("Ascend 910B3", "ascend", 65536, 62187, None, None, None, 2, ""),
        ("Ascend 910B3", "ascend", 65536, 24576, None, None, None, 0, ""),
    ],
    "arc": [("Intel(R) Arc(TM) A770 Graphics", "intel", 16288, 16045, None, 4, 16, 0, "00000000")],
    "no-numa": [],
}


@pytest.mark.parametrize("name", GPUS)
def test_gpus(captured, name: str) -> None:
    machine = captured(name)
    seen = [
        (
            *(g.name, g.vendor, g.memory // MIB, g.free // MIB, g.capability),
            *(g.pcie_gen, g.pcie_width, g.node, g.uuid[:8]),
        )
        for g in machine.gpus
    ]
    assert seen == GPUS[name]
    assert [g.index for g in machine.gpus] == list(range(len(seen)))
    assert machine.problems == ()


@pytest.mark.parametrize("name", trees.names())
def test_a_machine_survives_toml(captured, name: str) -> None:
    machine = captured(name)
    assert toml.loads(toml.dump(machine)) == machine


def test_hybrid_cores_are_told_apart(captured) -> None:
    cores = captured("laptop").cpu.cores
    assert [c.cpus for c in cores if not c.efficiency] == [(2 * i, 2 * i + 1) for i in range(6)]
    assert [c.cpus for c in cores if c.efficiency] == [(i,) for i in range(12, 20)]


def test_siblings_are_one_core_of_the_right_node_and_socket(captured) -> None:
    cores = captured("two-socket").cpu.cores
    assert cores[0].cpus == (0, 96)
    assert (cores[47].node, cores[47].socket) == (0, 0)
    assert (cores[48].cpus, cores[48].node, cores[48].socket) == ((48, 144), 1, 1)


def test_isa_has_linux_names(captured) -> None:
    cpu = captured("two-socket").cpu
    assert cpu.has("amx_int8", "amx_bf16", "amx_tile", "avx512_vnni", "avx512_bf16", "avx512_fp16")
    assert not captured("desktop").cpu.has("amx_int8")
    assert "smep" not in cpu.isa


def test_arm_is_known_by_its_part(captured) -> None:
    grace = captured("gh200").cpu
    assert (grace.vendor, grace.model) == ("ARM", "Neoverse V2")
    assert grace.has("sve2", "i8mm", "bf16")
    assert captured("ascend").cpu.model == "Kunpeng 920"


def test_a_node_without_cpus_is_kept_but_runs_nothing(captured) -> None:
    near, far = captured("cxl").nodes
    assert (len(near.cpus), near.memory / GIB, near.distances) == (128, 384, (10, 50))
    assert (far.cpus, far.memory / GIB, far.distances) == ((), 256, (50, 10))


def test_free_memory_of_a_node_counts_droppable_file_pages(captured) -> None:
    assert [n.free / GIB for n in captured("two-socket").nodes] == [510, 510]


def test_the_only_node_has_all_the_memory(captured) -> None:
    machine = captured("h100-vm")
    (node,) = machine.nodes
    assert (node.memory, node.free) == (machine.memory.total, machine.memory.available)
    assert node.memory == 131981020 * 1024


def test_a_virtual_disk_hides_what_it_is(captured) -> None:
    assert {disk.rotational for disk in captured("h100-vm").disks} == {None}


def test_why_names_what_narrows(captured) -> None:
    assert captured("two-socket").cpu.why == ""
    for name in ("container-v1", "container-v2"):
        cpu = captured(name).cpu
        assert (cpu.quota, cpu.why) == (8.0, "the cgroup's quota grants 8 CPUs' worth of time")


def test_cpuset_and_affinity_are_intersected(captured) -> None:
    machine = captured("cpuset")
    assert cpulist.format(c for core in machine.cpu.cores for c in core.cpus) == "0-5,7,96-101"
    assert machine.cpu.cores[-1].cpus == (7,)
    assert machine.cpu.why == (
        "the cpuset allows CPUs 0-7,96-102 of 192; the affinity allows CPUs 0-5,7,96-101 of 192"
    )
    assert machine.nodes[1].memory == 0


def test_containers_are_recognised(captured) -> None:
    assert captured("container-v2").system.container == "docker"
    assert captured("cpuset").system.container == "kubernetes"


def test_a_quota_on_a_parent_group_counts(tmp_path: Path) -> None:
    tree = trees.unpack("cpuset", tmp_path)
    (tmp_path / "sys/fs/cgroup/kubepods/cpu.max").write_text("250000 100000\n")
    cpu = tree.machine().cpu
    assert (cpu.quota, cpu.physical_cores) == (2.5, 2)


def test_system_facts(captured) -> None:
    system = captured("two-socket").system
    assert (system.os, system.kernel) == ("Ubuntu 24.04.1 LTS", "6.8.0-45-generic")
    assert (system.governor, system.numa_balancing) == ("performance", False)
    assert (system.driver, system.cuda, system.glibc) == ("570.124.06", "12.8", "2.39")
    assert captured("two-socket").memory.hugepages == "madvise"


def test_disks(captured) -> None:
    home, hub = captured("desktop").disks
    assert (home.path, hub.path) == ("/home/ada/.local/share/kt", "/home/ada/hf/hub")
    assert (home.total, home.free, home.rotational) == (4 * 10**12, 3 * 10**12, False)
    assert home.mount == hub.mount == "/"


def test_disk_kind_follows_the_longest_mount(tmp_path: Path) -> None:
    tree = trees.unpack("desktop", tmp_path)
    with (tmp_path / "proc/self/mountinfo").open("a") as mounts:
        mounts.write("40 22 8:17 / /home/ada/hf rw - ext4 /dev/sdb1 rw\n")
        mounts.write("41 22 0:50 / /home/ada/.local rw - btrfs /dev/sdb1 rw\n")
    for name, text in {"dev": "8:16", "sdb1/dev": "8:17", "queue/rotational": "1"}.items():
        file = tmp_path / "sys/block/sdb" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    disks = tree.machine().disks
    assert [d.rotational for d in disks] == [True, True]
    assert [d.mount for d in disks] == ["/home/ada/.local", "/home/ada/hf"]


@pytest.mark.parametrize(
    ("wanted", "order", "seen"),
    [
        (None, None, ["4090", "3090"]),
        (None, "PCI_BUS_ID", ["3090", "4090"]),
        ("1,0", "PCI_BUS_ID", ["4090", "3090"]),
        ("1", None, ["3090"]),
        ("GPU-3090", None, ["3090"]),
        ("GPU-3090,GPU-4090", None, ["3090", "4090"]),
        ("", None, []),
        ("-1", None, []),
        ("0,-1,1", None, ["4090"]),
        ("0,7,1", None, ["4090"]),
        ("0,0", None, []),
        ("GPU-nothing", None, []),
    ],
)
def test_cuda_visible_devices(captured, wanted: str | None, order: str | None, seen: list) -> None:
    env = {"CUDA_VISIBLE_DEVICES": wanted, "CUDA_DEVICE_ORDER": order}
    gpus = captured("unequal-gpus", **{k: v for k, v in env.items() if v is not None}).gpus
    assert [g.name[-4:] for g in gpus] == seen
    assert [g.index for g in gpus] == list(range(len(seen)))


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ("MIG-2222", ["MIG-2222"]),
        ("GPU-migmig00", ["MIG-1111"]),
        ("1,0", ["GPU-whol", "MIG-1111"]),
    ],
)
def test_mig_instances_by_uuid_and_by_card(captured, wanted: str, seen: list) -> None:
    gpus = captured("mig", CUDA_VISIBLE_DEVICES=wanted).gpus
    assert [g.uuid[:8] for g in gpus] == seen
    assert [g.mig for g in gpus] == [g.uuid.startswith("MIG") for g in gpus]


@pytest.mark.parametrize(
    ("machine", "env", "buses"),
    [
        ("rocm", {"ROCR_VISIBLE_DEVICES": "1"}, ["0000:3d:00.0"]),
        ("rocm", {"ROCR_VISIBLE_DEVICES": "GPU-e1d0aa5c1f2b3c4d"}, ["0000:1b:00.0"]),
        ("rocm", {"HIP_VISIBLE_DEVICES": "1,0"}, ["0000:3d:00.0", "0000:1b:00.0"]),
        ("rocm", {"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, []),
        ("ascend", {"ASCEND_RT_VISIBLE_DEVICES": "1"}, ["0000:01:00.0"]),
        ("arc", {"ZE_AFFINITY_MASK": "0.0,0.1"}, ["0000:03:00.0"]),
        ("arc", {"ZE_AFFINITY_MASK": ""}, []),
    ],
)
def test_other_vendors_have_such_lists_too(captured, machine: str, env: dict, buses: list) -> None:
    assert [g.bus for g in captured(machine, **env).gpus] == buses
