"""Files and folders in the making: whole or absent, and cleared once their maker is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kt_cli import children, unfinished

PRELUDE = """
import shutil, sys, threading
from pathlib import Path
from kt_cli import unfinished
def wait(*args, **kwargs):
    print("here", flush=True)
    threading.Event().wait()
place = Path(sys.argv[1]) / "thing"
"""
MAKERS = {
    "write": "Path.replace = wait; unfinished.write(place, 'x')",
    "folder": "with unfinished.folder(place) as f: (f / 'x').write_text('x'); wait()",
    "scratch": "with unfinished.scratch(place.parent): wait()",
    "discard": "shutil.rmtree = wait; unfinished.discard(place)",
}


def maker(folder: Path, kind: str) -> subprocess.Popen[bytes]:
    """A process that stands still in the middle of making something."""
    if kind == "discard":
        (folder / "thing" / "deep").mkdir(parents=True)
    argv = [sys.executable, "-c", f"{PRELUDE}\n{MAKERS[kind]}", str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    return process


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_killed_process_left_goes_and_a_living_ones_stays(tmp_path: Path, kind: str) -> None:
    process = maker(tmp_path, kind)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(unfinished.PREFIX)
    assert unfinished.sweep(tmp_path) == 0 and left.exists()
    process.kill()
    process.communicate()
    assert unfinished.sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_whoever_makes_something_clears_what_was_left_there(tmp_path: Path) -> None:
    """Of kinds that find `file` there or not, in this order."""
    uses = (
        lambda: unfinished.write(tmp_path / "file", "x"),
        lambda: unfinished.discard(tmp_path / "file"),
        lambda: unfinished.link(tmp_path / "link", tmp_path),
    )
    for use in uses:
        process = maker(tmp_path, "scratch")
        left = next(p for p in tmp_path.iterdir() if p.name.startswith(unfinished.PREFIX))
        process.kill()
        process.communicate()
        use()
        assert not left.exists()


def test_a_failure_leaves_what_was_there_before(tmp_path: Path) -> None:
    place = tmp_path / "model"
    with unfinished.folder(place) as fresh:
        (fresh / "a").write_text("one")
    with pytest.raises(ZeroDivisionError), unfinished.folder(place) as fresh:
        (fresh / "a").write_text("two")
        raise ZeroDivisionError
    assert (place / "a").read_text() == "one"
    with unfinished.folder(place) as fresh:
        (fresh / "b").write_text("three")
    assert [p.name for p in place.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "file"
    unfinished.write(place, "old", private=True)
    assert place.stat().st_mode & 0o077 == 0
    with pytest.raises(TypeError):
        unfinished.write(place, 7)  # type: ignore[arg-type]
    assert place.read_text() == "old" and list(tmp_path.iterdir()) == [place]


def test_many_makers_and_sweepers_do_not_take_from_each_other(tmp_path: Path) -> None:
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                unfinished.write(tmp_path / f"file{number % 2}", f"{turn}")
                with unfinished.folder(tmp_path / f"folder{number}") as fresh:
                    (fresh / "x").write_text("x")
                unfinished.sweep(tmp_path)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("file0", "file1"),
        *(f"folder{n}" for n in range(4)),
    ]


def test_where_there_are_no_locks_things_are_made_and_nothing_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(38, "no locks")

    monkeypatch.setattr(unfinished.fcntl, "flock", refuse)
    with unfinished.scratch(tmp_path):
        unfinished.write(tmp_path / "file", "x")
        assert len(list(tmp_path.iterdir())) == 2
    assert (tmp_path / "file").read_text() == "x"


def test_a_child_ends_with_its_killed_parent(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from kt_cli import children
argv = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
with Path(sys.argv[1]).open("wb") as log, children.started(argv, log) as child:
    print("here", flush=True)
    child.wait()
"""
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE)
    assert parent.stdout is not None and parent.stdout.readline() == b"here\n"
    while not log.read_text():
        pass
    watched = os.pidfd_open(int(log.read_text()))
    parent.kill()
    parent.communicate()
    assert _ends(watched)


def test_what_a_child_started_ends_with_the_block(tmp_path: Path) -> None:
    grandchild = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    log = tmp_path / "log"
    with log.open("wb") as file, children.started([sys.executable, "-c", code], file) as child:
        while not log.read_text():
            assert not children.ended(child, within_s=0.01)
        watched = os.pidfd_open(int(log.read_text()))
    assert child.returncode == -signal.SIGKILL
    assert _ends(watched)


def _ends(pidfd: int) -> bool:
    """Waits until it does; a test that hangs here has failed."""
    import select

    try:
        return bool(select.select([pidfd], [], [], 20)[0])
    finally:
        os.close(pidfd)
