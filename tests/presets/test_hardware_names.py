"""Everyday names of hardware: each means one thing, unknown ones name what is near."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kt_cli.core.hardware import (
    cpu_key,
    cpu_named,
    find_gpu,
    gpu_key,
    gpu_named,
    parse_disk,
    sized,
)
from kt_cli.core.machine import Machine
from kt_cli.core.speed import bandwidth
from kt_cli.core.units import GIB
from kt_cli.core.what_if import CORE_GBS
from kt_cli.engines.facts import read_cpus, read_gpus
from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.workflow.machines import MachineOptions, machine_for
from kt_cli.workflow.sizes import parse_memory

GPUS, CPUS = read_gpus(), read_cpus()
BASE = "a770+14900k"


def what_if(**asked: object) -> Machine:
    options = {"on": BASE, **asked}
    return machine_for(MachineOptions(**options), Path("/nowhere"))  # type: ignore[arg-type]


def test_no_name_of_a_gpu_or_processor_means_two() -> None:
    gpus = Counter(gpu_key(name) for g in GPUS for name in {g.name, *g.aliases})
    cpus = Counter(cpu_key(name) for c in CPUS for name in {c.name, *c.aliases})
    twice = [key for counts in (gpus, cpus) for key, count in counts.items() if count > 1]
    assert twice == [] and "" not in gpus and "" not in cpus


def test_every_gpu_is_found_by_its_spellings_and_by_what_a_driver_calls_it() -> None:
    wrong = [
        (form, gpu.name)
        for gpu in GPUS
        for name in (gpu.name, *gpu.aliases)
        for form in (name, name.lower(), name.replace(" ", "-"), name.replace(" ", "").upper())
        if gpu_named(form, GPUS) is not gpu
        or (gpu.vendor == "nvidia" and find_gpu(f"NVIDIA GeForce {name}", GPUS) is not gpu)
    ]
    assert wrong == []


def test_every_processor_is_found_by_its_spellings() -> None:
    wrong = [
        (form, cpu.name)
        for cpu in CPUS
        for form in (cpu.name, cpu.full_name, cpu.name.lower(), cpu.full_name.replace(" ", "-"),
                     f"{cpu.maker.split()[-1]}_{cpu.name}")
        if cpu_named(form, CPUS) is not cpu
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "name", "gib"),
    [("5060ti", "RTX 5060 Ti", 16), ("5060ti-8g", "RTX 5060 Ti", 8),
     ("5060ti16gb", "RTX 5060 Ti", 16), ("3060-12g", "RTX 3060", 12),
     ("RTX 3060 8GB", "RTX 3060", 8), ("4060", "RTX 4060", 8),
     ("rtx-pro-6000", "RTX PRO 6000", 96), ("pro6000", "RTX PRO 6000", 96),
     ("a770", "Arc A770", 16),
     ("7900xtx", "RX 7900 XTX", 24), ("7900 XT", "RX 7900 XT", 20), ("a100-40g", "A100", 40),
     ("4090-48g", "RTX 4090", 48), ("b580", "Arc B580", 12), ("6000 ada", "RTX 6000 Ada", 48)],
)  # fmt: skip
def test_everyday_names_of_gpus(typed: str, name: str, gib: int) -> None:
    gpu = what_if(gpu=typed).gpus[0]
    assert gpu.name.endswith(name)
    assert gpu.memory == gib * GIB


@pytest.mark.parametrize(
    ("typed", "cores", "feature"),
    [("9950x", 16, "avx512_bf16"), ("i9-14900k", 8, "avx_vnni"), ("14900KF", 8, "avx2"),
     ("7995wx", 96, "avx512_vnni"), ("epyc-9654", 96, "avx512_bf16"),
     ("xeon-6454s", 32, "amx_int8"),
     ("2x6454s", 64, "amx_bf16"), ("Ryzen 9 9950X", 16, "avx512f"), ("8480+", 56, "amx_tile"),
     ("e5-2680v4", 14, "avx2"), ("2x E5-2699 v4", 44, "fma"), ("3495x", 56, "amx_bf16")],
)  # fmt: skip
def test_everyday_names_of_processors(typed: str, cores: int, feature: str) -> None:
    machine = what_if(cpu=typed)
    assert machine.cpu.physical_cores == machine.cpu.total_cores == cores
    assert machine.cpu.has(feature)
    assert sum(len(n.cpus) for n in machine.nodes) == 2 * cores
    assert sum(n.memory for n in machine.nodes) <= machine.memory.total


def test_bandwidth_of_every_processor_grows_with_threads_up_to_its_share_of_the_channels() -> None:
    for cpu in CPUS:
        for sockets in (1, 2):
            machine = what_if(cpu=f"{sockets}x{cpu.full_name}")
            threads = range(1, cpu.cores * sockets + 1)
            reached = [bandwidth(machine.measured, n) or 0 for n in threads]
            assert reached == sorted(reached)
            channels, cores = 0.75 * cpu.gbs, CORE_GBS[cpu.channels > 4] * cpu.cores
            assert reached[-1] == pytest.approx(sockets * min(channels, cores))


@pytest.mark.parametrize(
    ("asked", "near"),
    [({"gpu": "5060tie"}, "RTX 5060 Ti"), ({"gpu": "rtx 4099"}, "RTX 4090"),
     ({"gpu": "3060-16g"}, "12 or 8"), ({"cpu": "9950y"}, "9950X"), ({"cpu": "epyc 9655p"}, "9655"),
     ({"on": "4090"}, "4090+2x6454s")],
)  # fmt: skip
def test_an_unknown_name_gets_near_ones(asked: dict[str, str], near: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        what_if(**asked)
    assert near in caught.value.why


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA T400", "NVIDIA RTX A3000"]
)
def test_a_gpu_that_only_shares_a_name_is_not_taken_for_another(name: str) -> None:
    assert find_gpu(name, GPUS) is None


@pytest.mark.parametrize(
    ("name", "gpu"),
    [("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100"), ("Tesla T4", "T4"),
     ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"), ("NVIDIA L40S", "L40S"),
     ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000")],
)  # fmt: skip
def test_names_that_drivers_tell(name: str, gpu: str) -> None:
    found = find_gpu(name, GPUS)
    assert found and found.name == gpu


@pytest.mark.parametrize(
    ("text", "gbs", "size", "rotational"),
    [("nvme", 3.5, "", False), ("nvme:7GB/s", 7.0, "", False), ("7GB/s,2TB", 7.0, "2TB", False),
     ("2TB:nvme5", 14.0, "2TB", False), ("hdd", 0.2, "", True), ("550MB/s", 0.55, "", False),
     ("4TB", None, "4TB", False)],
)  # fmt: skip
def test_disks(text: str, gbs: float | None, size: str, rotational: bool) -> None:
    wish = parse_disk(text)
    assert (wish.gbs, wish.size, wish.rotational) == (gbs, size, rotational)


def test_a_disk_changes_speed_and_room() -> None:
    machine = what_if(disk="nvme:7GB/s,4TB")
    assert machine.measured.disk_gbs == 7.0
    assert machine.disks[0].free == 4 * 10**12
    assert what_if(disk="sata").disks == what_if().disks


@pytest.mark.parametrize("text", ["floppy", "nvme:7", "7GBs", "nvme:fast", "7 furlongs/s"])
def test_a_disk_that_is_not_understood_is_a_usage_error(text: str) -> None:
    if text == "nvme:7":  # a size: 7 GB
        assert what_if(disk=text).disks[0].total == 7 * 10**9
        return
    with pytest.raises((UsageError, KtError), match="disk"):
        what_if(disk=text)


@pytest.mark.parametrize(
    ("text", "size", "shown"),
    [("256", 256 * 10**9, "256 GB (a bare 256 is read as GB)"), ("96GB", 96 * 10**9, "96 GB"),
     ("64GiB", 64 * GIB, "64 GiB (68.7 GB)"), ("64G", 64 * GIB, "64 GiB (68.7 GB)"),
     ("1.5TB", 15 * 10**11, "1.5 TB"), ("256000000000", 256 * 10**9, "256 GB")],
)  # fmt: skip
def test_memory_is_shown_in_the_unit_it_was_given_in(text: str, size: int, shown: str) -> None:
    given = parse_memory(text)
    assert (given, given.text) == (size, shown)
    assert f"RAM {shown}" in what_if(ram=given).name


def test_all_that_was_asked_stands_in_the_machines_name() -> None:
    name = what_if(cpu="9950x", gpu="2x5060ti-16g", ram=parse_memory("96"), disk="nvme").name
    assert name == (
        f"{BASE} with CPU AMD Ryzen 9950X, RAM 96 GB (a bare 96 is read as GB), "
        "GPU 2x5060ti-16g, disk nvme"
    )


def test_a_size_at_the_end_of_a_name() -> None:
    assert [sized(t) for t in ("5060ti-16g", "5060ti16g", "3060 12GB", "4090", "l40s")] == [
        ("5060ti", 16), ("5060ti", 16), ("3060", 12), ("4090", None), ("l40s", None)
    ]  # fmt: skip
