"""What trying has found is kept for later processes, and nothing foreign is believed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kt_moe
import numpy as np
import pytest
from kt_moe import tuning

TILES = [name for name in kt_moe.cpu_info()["variants"] if name.startswith("amx")]
needs_tiles = pytest.mark.skipif(not TILES, reason="no variant here has tiles")

RUN = """
import json, sys
import kt_moe, numpy as np
from kt_moe import tuning
experts = kt_moe.Experts(2, 64, 64, format="int8", top_k=1)
matrix = np.ones((64, 64), np.float32)
for e in range(2): experts.set_expert(e, matrix, matrix, matrix)
x, ids = np.ones((40, 64), np.float32), np.arange(40, dtype=np.int32)[:, None] % 2
count = tuning.settle(lambda n: experts.forward(x, ids, np.ones((40, 1), np.float32)))
print(json.dumps([count, len(kt_moe._native.core().cut_records())]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_MOE_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def run(folder: Path | str) -> list[int]:
    """Calls until settled, and records then, of a process on tiles."""
    environment = {**os.environ, "KT_MOE_CACHE": str(folder), "KT_ISA": TILES[0]}
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts: list[int] = json.loads(done.stdout)
    return counts


def kept() -> Path:
    path = tuning.file()
    assert path is not None
    return path


@needs_tiles
def test_a_later_process_does_not_try_again(folder: Path) -> None:
    first, later = run(folder), run(folder)
    assert first[0] > 10
    assert later == [1, first[1]]


@needs_tiles
def test_another_number_of_threads_is_tried_apart(folder: Path) -> None:
    run(folder)
    before = len(json.loads(kept().read_text())["cuts"])
    script = RUN.replace(
        "import kt_moe, numpy", "import kt_moe; kt_moe.set_threads(3)\nimport numpy"
    )
    environment = {**os.environ, "KT_ISA": TILES[0]}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment)
    assert json.loads(done.stdout)[0] > 10
    assert len(json.loads(kept().read_text())["cuts"]) == 2 * before


@needs_tiles
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"cpu": "another", "cuts": []}',
        b'{"cuts": {"a": 1}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_a_file_that_makes_no_sense_is_tried_anew_and_replaced(
    folder: Path, content: bytes
) -> None:
    folder.mkdir()
    kept().write_bytes(content)
    assert run(folder)[0] > 10
    assert run(folder)[0] == 1


ROW = [[1, 64, 64, 2, 1, 8, 16, 16, 1], 0.5]


@pytest.mark.parametrize(
    ("row", "sound"),
    [
        (ROW, True),
        ([ROW[0], 1e400], False),
        ([ROW[0], -1.0], False),
        ([ROW[0], "0.5"], False),
        ([ROW[0][:-1], 0.5], False),  # type: ignore[index]
        ([[*ROW[0][:-1], -1], 0.5], False),  # type: ignore[index]
        ([[*ROW[0][:-1], 1 << 40], 0.5], False),  # type: ignore[index]
        ([[*ROW[0][:-1], True], 0.5], False),  # type: ignore[index]
        ([], False),
        (None, False),
    ],
)
def test_only_rows_that_make_sense_are_taken_over(folder: Path, row: Any, sound: bool) -> None:
    folder.mkdir()
    kept().write_text(json.dumps({"cpu": tuning._cpu(), "cuts": [row]}))
    assert tuning.load() == int(sound)


def test_a_row_of_a_cut_that_is_no_longer_tried_does_no_harm(folder: Path) -> None:
    folder.mkdir()
    strange = [[1, 96, 96, 2, 1, 1000, 1000, 1000, 0], 1e-9]
    kept().write_text(json.dumps({"cpu": tuning._cpu(), "cuts": [strange]}))
    assert tuning.load() == 1
    assert all(numbers[1] != 96 for numbers, _ in kt_moe._native.core().cut_records())


@needs_tiles
def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "file" / "below")[0] > 10
    assert run("off")[0] > 10
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tuning.save()
    before = kept().read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert not tuning.save()
    assert kept().read_bytes() == before
    assert len(list(folder.iterdir())) == 1


def test_the_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KT_MOE_CACHE", "off")
    assert tuning.file() is None
    assert not tuning.save()
    monkeypatch.delenv("KT_MOE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(tuning.file()).startswith("/caches/kt_moe/tuned-")


def test_settling_ends_where_nothing_is_tried() -> None:
    experts = kt_moe.Experts(1, 32, 32, format="bf16", top_k=1)
    x, ids = np.zeros((1, 32), np.float32), np.zeros((1, 1), np.int32)
    weights = np.ones((1, 1), np.float32)
    assert tuning.settle(lambda n: experts.forward(x, ids, weights)) == 1
