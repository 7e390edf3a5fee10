"""Packed weights on disk: same answers after loading, and no use of a damaged file."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe import PackFileError, packfile
from kt_moe._native import core

from .helpers import random_case, random_matrices


@pytest.fixture(params=["bf16", "int8", "int4"])
def experts(request: pytest.FixtureRequest, rng: np.random.Generator) -> kt_moe.Experts:
    matrices = random_matrices(rng, 3, 72, 100)
    return kt_moe.Experts.from_weights(*matrices, format=request.param, group=64, top_k=2)


@pytest.fixture
def path(experts: kt_moe.Experts, tmp_path: Path) -> Path:
    target = tmp_path / "layer.kt"
    experts.save(target)
    return target


def test_loaded_experts_answer_alike(
    experts: kt_moe.Experts, path: Path, rng: np.random.Generator
) -> None:
    loaded = kt_moe.Experts.load(path, verify=True)
    assert (loaded.format, loaded.group, loaded.top_k) == (experts.format, 64, 2)
    case = random_case(rng, 9, 72, 3, 2)
    np.testing.assert_array_equal(
        loaded.forward(case.x, case.ids, case.weights),
        experts.forward(case.x, case.ids, case.weights),
    )


def test_loaded_experts_cannot_be_changed(path: Path, rng: np.random.Generator) -> None:
    gate, up, down = random_matrices(rng, 1, 72, 100)
    with pytest.raises(ValueError, match="cannot be changed"):
        kt_moe.Experts.load(path).set_expert(0, gate[0], up[0], down[0])


def test_save_leaves_only_the_file(path: Path) -> None:
    assert [p.name for p in path.parent.iterdir()] == ["layer.kt"]


def damage(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    size = path.stat().st_size
    for keep in (0, 10, 24, 60, 4096, size - 1):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(PackFileError):
            kt_moe.Experts.load(path)


def test_another_major_version_is_refused(path: Path) -> None:
    damage(path, 16, b"\2")
    with pytest.raises(PackFileError, match="version 2"):
        kt_moe.Experts.load(path)


def test_a_changed_dimension_is_refused(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"hidden": 72', b'"hidden": 99', 1))
    with pytest.raises((PackFileError, ValueError)):
        kt_moe.Experts.load(path, verify=True)


def test_scales_that_are_not_finite_are_refused(experts: kt_moe.Experts, path: Path) -> None:
    if experts.format == "bf16":
        pytest.skip("bf16 has no scales")
    experts.save(path)
    layout = experts._packed.layout()
    raw = bytearray(experts._packed.data().tobytes())
    raw[layout["up_scale_at"] : layout["up_scale_at"] + 4] = b"\xff" * 4
    packfile.write(path, experts._meta, np.frombuffer(raw, np.uint8))
    with pytest.raises(PackFileError, match="not finite"):
        kt_moe.Experts.load(path, verify=True)


def test_header_is_readable_json(path: Path) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[20:24], "little")
    header = json.loads(raw[24 : 24 + length])
    assert header["layout"] == "n16-tile-major-v1"
    assert header["alignment"] == 64


def test_golden_bytes(tmp_path: Path) -> None:
    """Version 1 never changes: row r, k of one int8 panel lies at k // 4 * 64 + r * 4 + k % 4."""
    gate = np.zeros((1, 16, 64), np.float32)
    gate[0] = np.arange(16)[:, None] + np.arange(64)[None, :] / 64
    experts = kt_moe.Experts.from_weights(
        gate, gate, gate.transpose(0, 2, 1).copy(), format="int8", top_k=1
    )
    target = tmp_path / "golden.kt"
    experts.save(target)
    panel = np.frombuffer(target.read_bytes()[4096 : 4096 + 1024], np.int8).reshape(16, 16, 4)
    scale = gate[0].max(axis=1) / 127
    wanted = np.rint(gate[0] / scale[:, None]).astype(np.int8)
    np.testing.assert_array_equal(panel.transpose(1, 0, 2).reshape(16, 64), wanted)


def crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [0, 1, 9, 65535, 65536, 65537, 262143, 5 * 65536 + 3])
def test_every_isa_sums_blocks_of_64_kib(isa: str, size: int) -> None:
    data = np.resize(np.frombuffer(b"123456789", np.uint8), size)
    sums = core().checksums(data)
    assert len(sums) == -(-size // 65536) * 4
    if size == 9:
        assert sums == (0xE3069283).to_bytes(4, "little")
    tail = data[size // 65536 * 65536 :].tobytes()
    if tail:
        assert int.from_bytes(sums[-4:], "little") == crc32c(tail)
    alone = b"".join(core().checksums(data[at : at + 65536]) for at in range(0, size, 65536))
    assert sums == alone


def test_the_digest_is_that_of_the_format(path: Path) -> None:
    raw = path.read_bytes()
    header = json.loads(raw[24 : 24 + int.from_bytes(raw[20:24], "little")])
    kind, _, digest = header["digest"].partition(":")
    state = hashlib.blake2b(
        json.dumps({**header, "digest": ""}, sort_keys=True).encode(), digest_size=32
    )
    for at in range(4096, len(raw), 65536):
        state.update(crc32c(raw[at : at + 65536]).to_bytes(4, "little"))
    assert (kind, digest) == ("crc32c-blake2b", state.hexdigest())


def test_files_of_older_writers_load(experts: kt_moe.Experts, path: Path) -> None:
    """With a sample or without, and with a digest over all bytes."""
    raw = path.read_bytes()
    header = json.loads(raw[24 : 24 + int.from_bytes(raw[20:24], "little")])
    for more in ({}, {"sample": "5eed" * 8}):
        header |= more
        old = json.dumps({**header, "digest": ""}, sort_keys=True).encode()
        header["digest"] = hashlib.blake2b(old + raw[4096:], digest_size=32).hexdigest()
        text = json.dumps(header, sort_keys=True).encode()
        start = raw[:20] + len(text).to_bytes(4, "little") + text
        path.write_bytes(start.ljust(4096, b"\0") + raw[4096:])
        assert kt_moe.Experts.load(path, verify=True).nbytes == experts.nbytes
        damage(path, 5000, bytes([path.read_bytes()[5000] ^ 1]))
        with pytest.raises(PackFileError, match="digest"):
            kt_moe.Experts.load(path, verify=True)


def save_in_a_child(path: Path, extra: str) -> int:
    """The exit code of a process that saves 4 MB of experts to `path`."""
    code = (
        "import kt_moe, os, resource, signal, sys\n"
        "from pathlib import Path\n"
        f"{extra}\n"
        "experts = kt_moe.Experts(8, 512, 512, format='int8', top_k=1)\n"
        "experts.save(sys.argv[1])\n"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True).returncode


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    assert save_in_a_child(tmp_path / "full.kt", limit) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_middle_leaves_no_file_of_the_name(tmp_path: Path) -> None:
    target = tmp_path / "layer.kt"
    killed = "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)"
    assert save_in_a_child(target, killed) == -signal.SIGKILL
    assert not target.exists()
    assert save_in_a_child(target, "") == 0
    assert kt_moe.Experts.load(target, verify=True).hidden == 512
