"""Processes that call experts from a CUDA stream: how they end and idle, and no driver at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kt_moe
import pytest

from .stand_in import build


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build(tmp_path_factory.mktemp("cuda"))
    if built is None:
        pytest.skip("no C compiler")
    return built


CHILD = """
import sys, time
import numpy as np
import kt_moe
from tests.kernels.stand_in import Driver
from pathlib import Path

stream = Driver(Path(sys.argv[1])).stream()
experts = kt_moe.Experts(4, 96, 80, format="int8", top_k=2)
link = kt_moe.GpuLink(experts, 8, "float32")
link.buffers.ids[:] = 0
for _ in range(50):
    link.enqueue(stream.handle, 8, 0, 0, 0)
"""


def run_child(library: Path, then: str) -> str:
    root = Path(__file__).parents[2]
    package = str(Path(kt_moe.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), package])}
    command = [sys.executable, "-c", CHILD + then, str(library)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_ends_while_calls_are_on_their_way(library: Path) -> None:
    for _ in range(3):
        run_child(library, "")


def test_the_thread_leaves_the_core_alone_when_nothing_comes(library: Path) -> None:
    then = (
        "stream.synchronise(); time.sleep(0.2); used = time.process_time(); time.sleep(0.5); "
        "print(time.process_time() - used)"
    )
    assert float(run_child(library, then)) < 0.1


def test_without_a_driver_the_reason_is_raised() -> None:
    child = (
        "import kt_moe\n"
        "experts = kt_moe.Experts(2, 64, 64, format='int8', top_k=1)\n"
        "try: kt_moe.GpuLink(experts, 1)\n"
        "except kt_moe.GpuError as error: print(error)\n"
        "else: print('here')"
    )
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    if done.stdout == "here\n":
        pytest.skip("a driver of CUDA is here")
    assert done.stdout.startswith(("no CUDA driver: libcuda.so.1", "cuInit: CUDA_ERROR"))
