"""What was found about the switch, from process to process; any call finds the answer or times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kt_moe
import pytest
from kt_moe import tuning

TILES = [name for name in kt_moe.cpu_info()["variants"] if name.startswith("amx")]
pytestmark = pytest.mark.skipif(not TILES, reason="no variant here has tiles")

RUN = """
import json, os, sys
import kt_moe, numpy as np
from kt_moe import switch, tuning
from kt_moe._native import core

experts = kt_moe.Experts(2, 512, int(sys.argv[1]), format="int8", top_k=1)
up = np.ones((experts.intermediate, 512), np.float32)
for e in range(2): experts.set_expert(e, up, up, up.T.copy())
calls = []
def times(experts, threads):
    calls.append(threads)
    return [switch.Timed(n, [1.0, 1.0], [8.0 / n, 8.0 / n]) for n in switch.TOKENS]
tuning.calibrate(experts, times)
print(json.dumps([len(calls), [tokens for _, tokens in core().switches()]]))
"""


def environment(folder: Path | str) -> dict[str, str]:
    return {**os.environ, "KT_MOE_CACHE": str(folder), "KT_ISA": TILES[0]}


def start(folder: Path | str, intermediate: int = 512, script: str = RUN) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(intermediate)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(folder))


def run(folder: Path | str, intermediate: int = 512, script: str = RUN) -> tuple[int, list[int]]:
    """How often it timed, and the switches known then."""
    process = start(folder, intermediate, script)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    timed, known = json.loads(printed)
    return timed, known


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_MOE_CACHE", str(tmp_path))
    return tmp_path


def kept() -> Path:
    path = tuning.file()
    assert path is not None
    return path


def test_a_later_process_does_not_time_again(folder: Path) -> None:
    assert run(folder) == (1, [9])
    assert run(folder) == (0, [9])


def test_without_a_folder_every_process_times() -> None:
    assert run("off") == run("off") == (1, [9])


KIND = [1, 32, 1, 32, 512, 960, 3]


@pytest.mark.parametrize(
    ("row", "sound"),
    [
        ([KIND, 9], True),
        ([KIND, 64], True),
        ([KIND, 65], False),
        ([KIND, 0], False),
        ([KIND, 2.0], False),
        ([KIND, True], False),
        ([KIND[:-1], 9], False),
        ([[*KIND[:-1], -1], 9], False),
        (None, False),
    ],
)
def test_only_switches_that_make_sense_are_taken_over(folder: Path, row: Any, sound: bool) -> None:
    kept().write_text(json.dumps({"cpu": tuning._cpu(), "cuts": [], "switches": [row]}))
    assert tuning.load() == int(sound)
    kept().write_text(json.dumps({"cpu": tuning._cpu(), "switches": {"9": 9}}))
    assert tuning.load() == 0


def test_a_damaged_file_is_replaced(folder: Path) -> None:
    kept().write_bytes(b'{"switches": [')
    assert run(folder) == (1, [9])
    assert run(folder) == (0, [9])


def test_another_cpu_or_build_has_a_file_of_its_own(folder: Path) -> None:
    run(folder)
    kept().rename(folder / "tuned-0123456789abcdef.json")
    assert run(folder) == (1, [9])
    file = kept()
    file.write_text(file.read_text().replace('"cpu": "', '"cpu": "not '))
    assert run(folder) == (1, [9])


def test_processes_that_write_at_once_lose_nothing(folder: Path) -> None:
    widths = [512, 576, 640, 704]
    processes = [start(folder, width) for width in widths]
    assert [p.wait(60) for p in processes] == [0] * len(widths)
    for process in processes:
        process.communicate()
    assert sorted(row[0][5] for row in json.loads(kept().read_text())["switches"]) == widths
    assert run(folder) == (0, [9] * len(widths))


def test_what_another_process_has_found_meanwhile_is_taken_over(folder: Path) -> None:
    script = RUN.replace("calls = []", "import subprocess; assert input() == ''\ncalls = []")
    process = subprocess.Popen(
        [sys.executable, "-c", script, "512"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(folder),
    )
    run(folder)
    printed, _ = process.communicate("\n", timeout=60)
    assert json.loads(printed) == [0, [9]]


FORKED = RUN.replace(
    "print(json",
    """
child = os.fork()
if not child:
    tuning.calibrate(experts, times)
    x = np.ones((40, 512), np.float32)
    experts.forward(x, np.zeros((40, 1), np.int32), np.ones((40, 1), np.float32))
    os._exit(10 * len(calls) + len(core().switches()))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
print(json""",
)


def test_a_forked_child_knows_it(folder: Path) -> None:
    assert run(folder, script=FORKED) == (1, [9])


BY_ITSELF = RUN.replace(
    "tuning.calibrate(experts, times)",
    """
x, ids = np.ones((4, 512), np.float32), np.zeros((4, 1), np.int32)
weights, out = np.ones((4, 1), np.float32), np.empty_like(x)
assert experts._packed.wants_switch()
WAY
assert not experts._packed.wants_switch()
""",
)


@pytest.mark.parametrize(
    "way",
    [
        "experts.forward(x, ids, weights)",
        "experts.submit(x, ids, weights); experts.sync()",
        "experts.defer(x, ids, weights).add_to(x)",
        "call = experts.host_call(x, ids, weights, out=out)",
    ],
)
def test_every_call_finds_it_before_it_runs(way: str) -> None:
    run("off", script=BY_ITSELF.replace("WAY", way))
