"""Parts of the probe that need no whole machine, and what happens when sources are broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli import environment, probe
from kt_cli.core.machine import Measured
from kt_cli.probe import bandwidth, cpu, cpulist, pci, toml, visible
from kt_cli.probe.host import Host, Ran, run_tool
from tests.probe import trees

CPU_SETS = st.sets(st.integers(0, 1023))


@given(CPU_SETS)
def test_cpu_lists_round_trip(cpus: set[int]) -> None:
    assert cpulist.parse(cpulist.format(cpus)) == tuple(sorted(cpus))


@given(CPU_SETS)
def test_cpu_lists_are_as_short_as_can_be(cpus: set[int]) -> None:
    runs = sum(1 for c in cpus if c - 1 not in cpus)
    text = cpulist.format(cpus)
    assert len(text.split(",")) == runs if cpus else text == ""


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 30)), max_size=8))
def test_overlapping_ranges_unite(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{low}-{low + more}" for low, more in ranges)
    united = {c for low, more in ranges for c in range(low, low + more + 1)}
    assert set(cpulist.parse(text)) == united


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert all(c >= 0 for c in cpulist.parse(text))
    except ValueError:
        assert cpulist.lenient(text) == ()


def test_strides_as_the_kernel_means_them() -> None:
    assert cpulist.parse("0-15:2/8, 20") == (0, 1, 8, 9, 20)


@pytest.mark.parametrize("text", ["3-1", "a", "0-3:2", "0-3:1/0", "1-", "-1", "5:1/2"])
def test_wrong_cpu_lists_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"CPU"):
        cpulist.parse(text)


def test_isa_aliases_become_linux_names() -> None:
    assert cpu.isa("avx512vnni AVX2 avx512bf16 fpu smep") == ("avx2", "avx512_bf16", "avx512_vnni")


@given(st.lists(st.integers(0, 5), max_size=6))
def test_visible_devices_follow_the_list(numbers: list[int]) -> None:
    text = ",".join(map(str, numbers))
    uuids = [(f"GPU-{n}",) for n in range(4)]
    picked = visible.select(text, uuids)
    good = numbers[: next((i for i, n in enumerate(numbers) if n > 3), len(numbers))]
    assert picked == (good if len(set(good)) == len(good) else [])


def test_an_ambiguous_uuid_prefix_picks_nothing() -> None:
    assert visible.select("GPU-a", [("GPU-ab",), ("GPU-ac",)]) == []


@pytest.mark.parametrize(
    ("text", "bus"),
    [
        ("00000000:17:00.0", "0000:17:00.0"),
        ("17:00.0", "0000:17:00.0"),
        ("00000009:01:00.0", "0009:01:00.0"),
        ("0000:C1:00.0", "0000:c1:00.0"),
        ("?", "?"),
    ],
)
def test_bus_addresses(text: str, bus: str) -> None:
    assert pci.address(text) == bus


def test_an_empty_tree_is_a_machine_of_one_core(tmp_path: Path) -> None:
    host = Host(root=tmp_path, env={}, run=lambda argv, timeout: Ran(127))
    machine = probe.machine(host=host)
    assert (machine.cpu.physical_cores, machine.memory.total, machine.gpus) == (1, 0, ())


def broken(name: str, tmp_path: Path, **changes: object) -> tuple[str, ...]:
    tree = trees.unpack(name, tmp_path)
    for field, value in changes.items():
        setattr(tree, field, value)
    machine = tree.machine()
    assert machine.gpus == ()
    return machine.problems


def test_a_missing_nvidia_driver_is_a_finding(tmp_path: Path) -> None:
    assert broken("desktop", tmp_path, nvml={"error": "Driver Not Loaded"}) == (
        "the NVIDIA driver does not answer: Driver Not Loaded",
    )


def test_a_missing_nvml_binding_is_a_finding(tmp_path: Path) -> None:
    (problem,) = broken("desktop", tmp_path, nvml=None)
    assert "nvidia-ml-py" in problem


def test_the_driver_that_holds_the_card_is_named(tmp_path: Path) -> None:
    tree = trees.unpack("desktop", tmp_path)
    tree.nvml = {"error": "Driver Not Loaded"}
    uevent = tmp_path / "sys/bus/pci/devices/0000:01:00.0/uevent"
    uevent.write_text(uevent.read_text().replace("DRIVER=nvidia", "DRIVER=nouveau"))
    assert tree.machine().problems[1] == (
        "the NVIDIA GPU at 0000:01:00.0 is held by the driver `nouveau`"
    )


def test_one_dead_gpu_does_not_hide_the_others(tmp_path: Path) -> None:
    tree = trees.unpack("unequal-gpus", tmp_path)
    assert tree.nvml
    tree.nvml["devices"][0] = {"error": "GPU is lost"}
    machine = tree.machine()
    assert [g.name for g in machine.gpus] == ["NVIDIA GeForce RTX 4090"]
    assert machine.problems == ("NVIDIA GPU 0 does not answer: GPU is lost",)


def test_missing_and_broken_tools_of_other_vendors_are_findings(tmp_path: Path) -> None:
    assert broken("arc", tmp_path / "a", tools={}) == (
        "Intel GPUs cannot be read: `xpu-smi` is not installed",
    )
    crash = {"npu-smi info": Ran(-11)}
    (problem,) = broken("ascend", tmp_path / "b", tools=crash)
    assert problem == "`npu-smi` died of SIGSEGV (segmentation fault)"
    garbage = {k: Ran(0, "no json") for k in trees.unpack("rocm-smi", tmp_path / "c").tools}
    (problem,) = broken("rocm-smi", tmp_path / "d", tools=garbage)
    assert problem == "`rocm-smi` answered something unreadable"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("kill -ILL $$", "died of SIGILL (illegal instruction)"),
        ("exit 3", "exited with code 3"),
        ("true", ""),
    ],
)
def test_how_a_tool_ended(script: str, problem: str) -> None:
    assert run_tool(("sh", "-c", script), 10).problem == problem


def test_a_slow_tool_keeps_what_it_said() -> None:
    ran = run_tool(("sh", "-c", "echo first; exec sleep 10"), 0.3)
    assert (ran.problem, ran.out) == ("did not answer in time", "first\n")


def test_a_missing_tool() -> None:
    assert run_tool(("no-such-tool-here",), 1).problem == "is not installed"


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({"HF_HUB_CACHE": "/a/hub", "HF_HOME": "/b"}, "/a/hub"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/hub"),
        ({}, str(Path.home() / ".cache/huggingface/hub")),
    ],
)
def test_the_hubs_cache_is_where_the_hub_keeps_it(env: dict[str, str], place: str) -> None:
    assert str(environment.hub_cache(env)) == place


def test_measurements_are_kept(tmp_path: Path) -> None:
    measured = Measured({1: 15.4, 2: 27.0}, {"fp32": 150.0}, None, 12.0, 3.0, "2026-01-02")
    bandwidth.save(tmp_path, measured)
    assert bandwidth.load(tmp_path) == measured


def test_measurements_that_cannot_be_read_do_not_exist(tmp_path: Path) -> None:
    assert bandwidth.load(tmp_path) is None
    (tmp_path / bandwidth.FILE).write_text("[read_gbs]\nmany = 3\n")
    assert bandwidth.load(tmp_path) is None


def test_measuring_asks_the_kernels(tmp_path: Path) -> None:
    answer = '{"read_gbs": {"1": 10.0, "2": 19.5}, "gops": {"fp32": 100.0}}\n'
    host = Host(root=tmp_path, run=lambda argv, timeout: Ran(0, "noise\n" + answer))
    measured = bandwidth.measure(host, 2, 1 << 33)
    assert measured is not None
    assert (measured.read_gbs, measured.gops) == ({1: 10.0, 2: 19.5}, {"fp32": 100.0})
    gone = Host(root=tmp_path, run=lambda argv, timeout: Ran(1, "", "ModuleNotFoundError"))
    assert bandwidth.measure(gone, 2, 1 << 33) is None


def test_measurements_kept_before_stolen_time_was_still_load(tmp_path: Path) -> None:
    kept = 'date = "2026-01-02"\n[read_gbs]\n1 = 15.4\n64 = 198.0\n[gops]\nfp32 = 150.0\n'
    (tmp_path / bandwidth.FILE).write_text(kept)
    measured = bandwidth.load(tmp_path) or Measured()
    assert measured == Measured({1: 15.4, 64: 198.0}, {"fp32": 150.0}, date="2026-01-02")
    assert (measured.stolen, measured.overbooked, measured.unhindered) == ({}, False, None)


def test_stolen_time_is_told_from_few_threads_on(tmp_path: Path) -> None:
    pair = ["cpu  10 0 0 900 0 0 0 5 0 0\n", "cpu  76 0 0 930 0 0 0 39 0 0\n"]
    answer = {"read_gbs": {"2": 20.0, "64": 198.04}, "gops": {}, "stat": {"2": pair, "64": pair}}
    host = Host(root=tmp_path, run=lambda argv, timeout: Ran(0, json.dumps(answer)))
    measured = bandwidth.measure(host, 64, 1 << 33)
    assert measured is not None
    assert (measured.read_gbs, measured.stolen) == ({2: 20.0, 64: 198.0}, {64: 0.34})
    bandwidth.save(tmp_path, measured)
    assert bandwidth.load(tmp_path) == measured


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ("cpu  0 0 0 0 0 0 0 0 0 0", "cpu  40 5 5 90 10 5 5 40 9 9", 0.4),
        ("cpu  7 0 0 50 0 0 0 3 0 0", "cpu  107 0 0 99 0 0 0 3 0 0", 0.0),
        ("cpu  7 0 0 50 0 0 0 3 0 0", "cpu  7 0 0 50 0 0 0 3 0 0", 0.0),
        ("cpu  7 0 0 50 9 0 0 3 0 0", "cpu  107 0 0 99 8 0 0 1 0 0", 0.0),
        ("cpu  0 0 0 0 0 0 0", "cpu  40 5 5 90 10 5 5", 0.0),
        ("cpu  0 0 0 0", "cpu  40 5 5 90", 0.0),
        ("", "", 0.0),
    ],
    ids=["stolen", "none", "no time", "backwards", "no field", "Linux 2.4", "no /proc"],
)
def test_share_of_the_busy_cpus_that_was_stolen(before: str, after: str, share: float) -> None:
    assert bandwidth.stolen(before, after) == share


def test_a_busy_machine_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    for load, busy in {"3.9 1 1": False, "4.1 1 1": True, "": False}.items():
        (tmp_path / "proc" / "loadavg").write_text(load)
        assert bandwidth.busy(Host(root=tmp_path), 16) is busy


def test_thread_counts_double_up_to_all_cores() -> None:
    assert [bandwidth.thread_counts(n) for n in (1, 2, 6, 8)] == [
        [1],
        [1, 2],
        [1, 2, 4, 6],
        [1, 2, 4, 8],
    ]


def test_this_machine_agrees_with_the_operating_system() -> None:
    machine = probe.machine()
    allowed = {cpu for core in machine.cpu.cores for cpu in core.cpus}
    assert allowed == os.sched_getaffinity(0)
    assert machine.cpu.total_threads == os.sysconf("SC_NPROCESSORS_ONLN")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert machine.memory.total == pytest.approx(pages, rel=0.01)
    assert 0 < machine.memory.available <= machine.memory.total
    assert machine.system.kernel == os.uname().release
    assert machine.worker_nodes
    assert machine.source == "this machine"
    assert toml.loads(toml.dump(machine)) == machine


def test_affinity_of_this_process_is_seen() -> None:
    whole = os.sched_getaffinity(0)
    if len(whole) < 2:
        pytest.skip("one CPU only")
    one = {min(whole)}
    try:
        os.sched_setaffinity(0, one)
        cpu_seen = probe.machine().cpu
    finally:
        os.sched_setaffinity(0, whole)
    assert {c for core in cpu_seen.cores for c in core.cpus} == one
    assert "affinity allows" in cpu_seen.why
