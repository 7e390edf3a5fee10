"""What a process holds, as /proc and NVML tell it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kt_cli.probe.held import held
from kt_cli.probe.host import Host

SMAPS = """\
5600-5700 r-xp 00000000 fe:00 123456                     /usr/lib/lib torch.so
Size:                400 kB
Rss:                 300 kB
Anonymous:            20 kB
VmFlags: rd ex mr mw me
7fa0ff822000-7fa0ff85e000 rw-p 00000000 00:00 0
Size:               5000 kB
Rss:                4000 kB
Anonymous:          4000 kB
7fb0ff822000-7fb0ff85e000 r--p 00001000 fe:00 99         /models/layer 3.kt
Size:               1000 kB
Rss:                  10 kB
Anonymous:             0 kB
7ffe0000-7fff0000 rw-p 00000000 00:00 0                  [stack]
Size:                132 kB
Rss:                  30 kB
Anonymous:            30 kB
"""


class NvmlError(Exception):
    pass


def nvml(*gpus: dict[int, int | None], broken: bool = False) -> SimpleNamespace:
    def init() -> None:
        if broken:
            raise NvmlError("driver not loaded")

    def processes(gpu: dict[int, int | None]) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=size) for p, size in gpu.items()]

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=lambda number: gpus[number],
        nvmlDeviceGetComputeRunningProcesses=processes,
    )


@pytest.fixture
def host(tmp_path: Path):
    for pid in (7, 8):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/smaps").write_text(SMAPS.replace("layer 3.kt", "layer.ktmoe"))

    def make(driver: object) -> Host:
        return Host(tmp_path, env={}, nvml=lambda: driver)

    return make


def test_own_memory_of_every_process_counts_and_program_files_do_not(host) -> None:
    one, two = held([7], host(nvml())), held([7, 8], host(nvml()))
    assert one.anonymous == (20 + 4000 + 30) * 1024
    assert two.anonymous == 2 * one.anonymous


ROLLUP = """\
5600-7fff0000 ---p 00000000 00:00 0                      [rollup]
Rss:                4340 kB
Pss:                1200 kB
Pss_Dirty:            30 kB
Pss_Anon:           1100 kB
Pss_File:             60 kB
Pss_Shmem:            40 kB
Anonymous:          4050 kB
"""


def test_pages_that_forked_processes_share_count_once(host, tmp_path: Path) -> None:
    (tmp_path / "proc/7/smaps_rollup").write_text(ROLLUP)
    found = held([7], host(nvml()))
    assert (found.anonymous, found.shared) == (1100 * 1024, 40 * 1024)
    assert found.weights == 1000 * 1024


def test_mapped_weights_count_whole_though_few_pages_are_read_yet(host) -> None:
    assert held([7], host(nvml())).weights == 1000 * 1024


def test_a_process_that_is_gone_counts_nothing(host) -> None:
    assert held([9], host(nvml())).anonymous == 0


def test_gpu_memory_is_that_of_these_processes_on_all_gpus(host) -> None:
    assert held([7, 8], host(nvml({7: 100, 99: 5000}, {8: 20}))).gpu == 120


@pytest.mark.parametrize("driver", [nvml({99: 1}), nvml({7: None}), nvml(broken=True)])
def test_gpu_memory_that_no_driver_tells_is_unknown(host, driver: object) -> None:
    assert held([7], host(driver)).gpu is None
