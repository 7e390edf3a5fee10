"""The models folder: nothing lost, nothing deleted silently, nothing outside touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.hub.store import Store, need_space, scan
from kt_cli.modelfiles import models_at
from kt_cli.weights.sums import DAMAGED


def make_model(folder: Path, size: int = 10) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(size))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_an_empty_store_is_no_error(store: Store) -> None:
    assert store.entries() == ()


def test_small_shards_are_a_model_too(store: Store, tmp_path: Path) -> None:
    entry = store.add(make_model(tmp_path / "disk/m", 3), "m")
    assert (entry.state, entry.linked, entry.bytes) == ("ready", True, 5)


def test_a_vanished_mount_keeps_its_entry_and_comes_back(store: Store, tmp_path: Path) -> None:
    model = make_model(tmp_path / "disk/m")
    store.add(model, "m")
    model.rename(tmp_path / "away")
    (gone,) = store.entries()
    assert (gone.state, gone.path) == ("unavailable", str(model))
    (tmp_path / "away").rename(model)
    assert store.entry("m").state == "ready"


def test_removing_a_link_leaves_the_files(store: Store, tmp_path: Path) -> None:
    model = make_model(tmp_path / "disk/m")
    store.add(model, "m")
    store.remove("m")
    assert models_at(model) and store.entries() == ()


def test_removing_a_copy_deletes_it_whole(store: Store, tmp_path: Path) -> None:
    model = make_model(tmp_path / "disk/m")
    store.copy(model, "m")
    store.remove("m")
    assert list(store.folder.iterdir()) == [] and models_at(model)


def test_a_taken_name_is_refused(store: Store, tmp_path: Path) -> None:
    model = make_model(tmp_path / "disk/m")
    store.add(model, "m")
    for action in (store.add, store.copy):
        with pytest.raises(KtError, match="already"):
            action(model, "m")


def test_rename_and_repoint(store: Store, tmp_path: Path) -> None:
    store.add(make_model(tmp_path / "a/m"), "m")
    other = make_model(tmp_path / "b/m", 20)
    assert store.rename("m", "n").name == "n"
    assert store.repoint("n", other).path == str(other)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 200, "a\nb", "-f"])
def test_a_hostile_name_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        store.add(make_model(tmp_path / "disk/m"), name)


def test_what_is_no_model_is_not_added(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(NotFoundError):
            store.add(path, "m")


def test_scan_finds_models_and_does_not_follow_links(tmp_path: Path) -> None:
    a = make_model(tmp_path / "root/x/a")
    b = make_model(tmp_path / "root/b")
    make_model(tmp_path / "outside/c")
    (tmp_path / "root/link").symlink_to(tmp_path / "outside")
    (tmp_path / "root/loop").symlink_to(tmp_path / "root")
    assert sorted(scan(tmp_path / "root")) == sorted([a, b])


def test_a_folder_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    model = make_model(tmp_path / "root/m")
    locked = tmp_path / "root/locked"
    locked.mkdir(mode=0o000)
    try:
        assert list(scan(tmp_path / "root")) == [model]
    finally:
        locked.chmod(0o700)


def test_a_small_disk_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(KtError, match="too small"):
        need_space(tmp_path / "deep/er", 10**18)


COPYING = """
import shutil, sys, threading
from pathlib import Path
from kt_cli.hub.store import Store
def copy(source, target, *, follow_symlinks=True):
    Path(target).write_bytes(b"x" * 1000)
    print("here", flush=True)
    threading.Event().wait()
whole = shutil.copytree
shutil.copytree = lambda *args, **more: whole(*args, **more, copy_function=copy)
Store(Path(sys.argv[1])).copy(Path(sys.argv[2]), "m")
"""


def test_what_a_killed_import_left_is_cleared_by_the_next_look(
    store: Store, tmp_path: Path
) -> None:
    source = make_model(tmp_path / "disk/m")
    for _ in range(2):
        argv = [sys.executable, "-c", COPYING, str(store.folder), str(source)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as importing:
            assert importing.stdout is not None and importing.stdout.readline() == b"here\n"
            assert len(store.entries()) == 0 and len(list(store.folder.iterdir())) == 1
            importing.kill()
    assert store.entries() == () and list(store.folder.iterdir()) == []
    assert store.copy(source, "m").state == "ready"


def test_a_copy_that_the_disk_refuses_leaves_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", refuse)
    with pytest.raises(KtError) as caught:
        store.copy(make_model(tmp_path / "disk/m"), "m")
    assert caught.value.why == "No space left on device"
    assert list(store.folder.iterdir()) == []


def test_what_was_found_damaged_is_listed_so(store: Store, tmp_path: Path) -> None:
    store.add(make_model(tmp_path / "disk/m"), "m")
    (tmp_path / "disk/m" / DAMAGED).write_text("model.safetensors\n")
    entry = store.entry("m")
    assert entry.state == "damaged" and "model.safetensors" in entry.why
