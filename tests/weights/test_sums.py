"""A damaged part of a model's files never reaches whoever reads them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

from kt_cli.errors import KtError, TransferError
from kt_cli.weights import sums
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.headers import TensorInfo
from kt_cli.weights.writer import write_checkpoint

FLIPS = 400
SHAPES = {"a": (700, 1024), "b": (3,), "c": (1, 300_001), "d": (1 << 20,)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    infos = [TensorInfo(name, "F32", shape) for name, shape in SHAPES.items()]
    random_numbers = np.random.default_rng(0)
    data = [random_numbers.standard_normal(i.shape, dtype=np.float32) for i in infos]
    folder = tmp_path / "m"
    folder.mkdir()
    write_checkpoint(folder, infos, data, shard_bytes=5_000_000)
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "n": 10}))
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    found = {p.name: sums.of_file(p) for p in folder.iterdir() if not p.name.startswith(".")}
    sums.write(folder, sums.Sums(found, "fetch it again"))


def flip(path: Path, at: int, bit: int) -> None:
    """As a disk does it: the file's times stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tensors(folder: Path) -> dict[str, bytes]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint[name].tobytes() for name in sorted(checkpoint.names())}


def test_no_flipped_bit_of_any_file_reaches_a_reader(model: Path) -> None:
    choice = random.Random(7)
    files = sorted(p for p in model.iterdir() if not p.name.startswith("."))
    assert len(files) == 4
    for number in range(FLIPS):
        path = files[number % len(files)]
        size = path.stat().st_size
        header = number % 3 == 0  # the first bytes are few and matter most
        at, bit = choice.randrange(min(size, 400) if header else size), choice.randrange(8)
        flip(path, at, bit)
        with pytest.raises(KtError):
            tensors(model)
        assert sums.damaged(model) == {path.name}
        flip(path, at, bit)
        sums.mended(model, [path.name])
    assert sums.damaged(model) == frozenset() and tensors(model)


def test_only_what_is_used_is_read(model: Path) -> None:
    last = sorted(model.glob("*.safetensors"))[-1]
    flip(last, last.stat().st_size - 1, 0)
    checkpoint = Checkpoint(model)
    assert checkpoint["a"].shape == SHAPES["a"]
    with pytest.raises(TransferError, match="is damaged") as caught:
        checkpoint["d"]
    assert "at byte" in caught.value.why and caught.value.fix == "fetch it again"
    assert sums.Guard(model).wrong() == (last.name,)


def test_sums_do_not_depend_on_how_the_bytes_come(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3 * sums.CHUNK + 17)
    for size in (0, 1, sums.CHUNK - 1, sums.CHUNK, sums.CHUNK + 1, len(data)):
        path = tmp_path / f"{size}"
        path.write_bytes(data[:size])
        for step in (700_001, sums.CHUNK, len(data)):
            summing = sums.Summing()
            for at in range(0, size, step):
                summing.update(data[at : min(size, at + step)])
            assert summing.result(path) == sums.of_file(path)


def test_an_edited_configuration_is_the_users_own(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"model_type": "x", "n": 11}))
    assert tensors(model)


@pytest.mark.parametrize("change", [lambda d: d + b"x", lambda d: d[:-1], lambda d: b""])
def test_a_file_of_another_length_is_not_used(model: Path, change) -> None:
    path = sorted(model.glob("*.safetensors"))[0]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(KtError):
        tensors(model)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "remedy": "", "files": {"a": 1}}'])
def test_damaged_sums_are_named(model: Path, text: str) -> None:
    (model / sums.NAME).write_text(text)
    with pytest.raises(TransferError, match="checksums"):
        Checkpoint(model)


def test_without_sums_nothing_is_promised(model: Path) -> None:
    (model / sums.NAME).unlink()
    assert tensors(model)
