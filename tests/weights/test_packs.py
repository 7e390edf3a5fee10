"""The folder of packed experts: what fits which checkpoint, and what goes first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kt_cli.weights.packs import Held, Shelf, identity, remove


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "packs", spare=0)


def checkpoint(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(content)
    return folder


def filled(shelf: Shelf, model: Path, size: int, used: float) -> Held:
    held = shelf.open(model, "test")
    held.file("layers.0", "int4").write_bytes(bytes(size))
    os.utime(held.folder / "pack.json", (used, used))
    return held


def names(shelf: Shelf) -> list[str]:
    return [Path(pack.checkpoint).name for pack in shelf.packs()]


@pytest.fixture
def three(shelf: Shelf, tmp_path: Path) -> Shelf:
    """Of 1000 bytes each; a was used first."""
    for number, name in enumerate("abc"):
        filled(shelf, checkpoint(tmp_path / name), 1000, number + 1.0).close()
    return shelf


def test_the_identity_is_that_of_the_files(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m")
    before = identity(model)
    assert identity(model) == before
    (model / "README.md").write_text("words")
    assert identity(model) == before
    (model / "config.json").write_text("{ }")
    assert identity(model) != before


def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "m", b"weights")
    before, file = identity(model), model / "model.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(b"weightS")
    os.utime(file, ns=times)
    assert identity(model) != before


def test_a_single_file_is_a_checkpoint_too(tmp_path: Path, shelf: Shelf) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    shelf.open(file, "test").close()
    assert shelf.fitting(file) is not None


def test_a_pack_is_found_as_long_as_its_checkpoint_stays_the_same(
    tmp_path: Path, shelf: Shelf
) -> None:
    model = checkpoint(tmp_path / "m")
    filled(shelf, model, 1000, 1.0).close()
    pack = shelf.fitting(model)
    assert pack is not None
    assert (pack.layers("int4"), pack.layers("int8")) == ((1, 1000), (0, 0))
    (model / "model.safetensors").write_bytes(b"others")
    assert shelf.fitting(model) is None
    assert len(shelf.of(model)) == 1


def test_a_pack_of_another_version_goes(tmp_path: Path, shelf: Shelf) -> None:
    model = checkpoint(tmp_path / "m")
    filled(shelf, model, 1000, 1.0).close()
    shelf.open(model, "test 2").close()
    assert [pack.made_by for pack in shelf.packs()] == ["test 2"]


def test_the_least_recently_used_goes_first(three: Shelf) -> None:
    room = Shelf(three.folder, limit=3500, spare=0)
    assert room.make_room(1400, keep=three.folder / "none") == ""
    assert names(three) == ["b", "c"]


def test_being_opened_is_being_used(three: Shelf, tmp_path: Path) -> None:
    three.open(tmp_path / "a", "test").close()
    assert names(three) == ["b", "c", "a"]


def test_a_pack_in_use_stays(three: Shelf, tmp_path: Path) -> None:
    held = filled(three, tmp_path / "a", 1000, 1.0)
    room = Shelf(three.folder, limit=3500, spare=0)
    assert room.make_room(1400, keep=three.folder / "none") == ""
    assert names(three) == ["a", "c"]
    held.close()


def test_what_cannot_fit_removes_nothing(three: Shelf) -> None:
    limited = Shelf(three.folder, limit=3500, spare=0)
    assert "would exceed" in limited.make_room(4000, keep=three.folder / "none")
    full = Shelf(three.folder, spare=1 << 60)
    assert "to spare" in full.make_room(1, keep=three.folder / "none")
    assert names(three) == ["a", "b", "c"]


def test_what_is_no_pack_is_left_alone(three: Shelf) -> None:
    (three.folder / "notes.txt").write_text("mine")
    (three.folder / "empty").mkdir()
    (three.folder / "odd").mkdir()
    (three.folder / "odd" / "pack.json").write_text("[1]")
    assert names(three) == ["a", "b", "c"]


def test_a_shelf_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert Shelf(tmp_path / "none").packs() == ()


def test_removing_takes_the_whole_folder(three: Shelf) -> None:
    for pack in three.packs():
        remove(pack)
    assert list(three.folder.iterdir()) == []
