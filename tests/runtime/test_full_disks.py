"""A disk that refuses, at every moment of a server's life: it answers, and the commands work."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from runtime.bench import Bench, wait_for

from kt_cli import runtime
from kt_cli.core.events import Event, Failed, Ready, Stopped
from kt_cli.errors import KtError
from kt_cli.runtime import procs
from kt_cli.runtime.logfile import BoundedLog, tail
from kt_cli.runtime.losses import Losses
from kt_cli.runtime.register import Folder

TOLD = "as told"


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "kt-test", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    """To the last byte and the last file."""
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 8, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def use_up_files(place: Path) -> None:
    (place / "filler").mkdir()
    try:
        for number in range(100_000):
            (place / "filler" / str(number)).touch()
    except OSError:
        return


def empty(place: Path) -> None:
    filler = place / "filler"
    shutil.rmtree(filler) if filler.is_dir() else filler.unlink()


DISKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "full": ("size=2m", fill),
    "no more files": ("size=2m,nr_inodes=60", use_up_files),
}


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, bench: Bench) -> Iterator[Callable[[], None]]:
    """Makes the disk of the bench's home refuse."""
    options, use_up = DISKS[request.param]
    with small_disk(bench.home, options):
        yield lambda: use_up(bench.home)
        for server in runtime.servers(bench.home):
            if server.live:
                runtime.stop(bench.home, server.name, now=True)


def ready(events: Iterator[Event]) -> Event:
    return next(e for e in events if isinstance(e, (Ready, Failed, Stopped)))


def answers(server: runtime.Server, path: str = "/say") -> bool:
    with urllib.request.urlopen(server.url + path, timeout=10) as answer:
        return bool(answer.status == 200)


def test_before_the_start_it_is_named_and_nothing_is_left(
    bench: Bench, disk: Callable[[], None]
) -> None:
    disk()
    with pytest.raises(KtError) as caught:
        list(bench.start())
    assert "cannot be written" in caught.value.what and caught.value.why
    assert "KT_HOME" in caught.value.fix
    assert not (bench.home / "run" / "m").exists() and bench.none_left()


def test_while_it_loads_it_becomes_ready_all_the_same(
    bench: Bench, disk: Callable[[], None]
) -> None:
    events = bench.start("--ready-after", "1", "--say", "a line" * 500)
    next(events)
    disk()
    assert isinstance(ready(events), Ready)
    (server,) = runtime.servers(bench.home)
    assert server.state == "ready" and answers(server)
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert list(events) == [Stopped("user")]


def test_a_running_server_answers_and_the_commands_work(
    bench: Bench, disk: Callable[[], None]
) -> None:
    ready(bench.start())
    server = runtime.find(bench.home, "m")
    disk()
    assert all(answers(server) for _ in range(3000))
    assert runtime.find(bench.home, "m").state == "ready"
    assert list(runtime.logs(bench.home, "m"))
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert [s.state for s in runtime.servers(bench.home)] == ["stopped"]
    assert bench.none_left()


def test_what_is_lost_is_counted_and_told_when_the_disk_takes_it_again(bench: Bench) -> None:
    with small_disk(bench.home, "size=2m"):
        ready(bench.start())
        server = runtime.find(bench.home, "m")
        fill(bench.home)
        assert all(answers(server) for _ in range(3000))
        assert wait_for(lambda: runtime.find(bench.home, "m").unwritten is not None)
        lost = runtime.find(bench.home, "m").unwritten
        assert lost is not None and lost.until is None and "No space" in lost.why
        empty(bench.home)
        assert wait_for(lambda: (runtime.find(bench.home, "m").unwritten or lost).until)
        lost = runtime.find(bench.home, "m").unwritten
        assert lost is not None
        lines = list(runtime.logs(bench.home, "m"))
        note = f"kt: lines lost here: {lost.lines} (No space left on device)"
        assert note in lines and lines.count(TOLD) + lost.lines == 3000
        assert answers(server) and wait_for(lambda: list(runtime.logs(bench.home, "m"))[-1] == TOLD)
        runtime.stop(bench.home, "m")


def test_an_end_on_a_full_disk_is_on_record(bench: Bench, disk: Callable[[], None]) -> None:
    ready(bench.start("--die-after", "1", "--exit-code", "3"))
    disk()
    assert bench.none_left(15)
    (server,) = runtime.servers(bench.home)
    assert server.state == "failed" and server.failure is not None
    assert server.failure.exit_code == 3
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert runtime.find(bench.home, "m").state == "stopped" if runtime.servers(bench.home) else True


def test_a_start_after_space_is_back_works(bench: Bench, disk: Callable[[], None]) -> None:
    disk()
    with pytest.raises(KtError):
        bench.start()
    empty(bench.home)
    assert isinstance(ready(bench.start()), Ready)


def test_without_any_mount_refused_writes_do_not_matter(bench: Bench) -> None:
    """The same through a limit on the size of files, which holds for anybody."""
    ready(bench.start())
    server = runtime.find(bench.home, "m")
    resource.prlimit(server.supervisor.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    assert all(answers(server) for _ in range(20))
    assert wait_for(lambda: runtime.find(bench.home, "m").unwritten is not None)
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert bench.none_left()


def test_a_server_whose_folder_was_removed_is_found_and_stopped(bench: Bench) -> None:
    events = bench.start()
    ready(events)
    shutil.rmtree(bench.home)
    (server,) = runtime.servers(bench.home)
    assert server.state == "ready" and answers(server)
    assert list(runtime.logs(bench.home, "m")) == []
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert bench.none_left() and runtime.servers(bench.home) == ()


def test_a_read_only_view_is_enough_to_look_and_to_stop(bench: Bench, tmp_path: Path) -> None:
    ready(bench.start())
    view = tmp_path / "view"
    view.mkdir()
    bind = subprocess.run(["mount", "--bind", str(bench.home), str(view)], capture_output=True)
    if bind.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (view / "x").touch()
        assert runtime.find(view, "m").state == "ready"
        assert list(runtime.logs(view, "m"))
        assert runtime.stop(view, "m").state == "stopped"
        with pytest.raises(KtError, match="cannot be written"):
            runtime.start(bench.spec(), view, "other")
    finally:
        subprocess.run(["umount", "--lazy", str(view)], check=True)
    assert bench.none_left()


def test_a_log_that_cannot_rotate_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses()
    log = BoundedLog(tmp_path / "log", limit=100, losses=losses)
    log.write(b"first\n")
    whole = os.open
    monkeypatch.setattr(os, "open", _refuse)
    for _ in range(3):
        log.write(b"x" * 98 + b"\n")
    monkeypatch.setattr(os, "open", whole)
    assert losses.last is not None and losses.last.lines == 3
    log.write(b"y" * 98 + b"\n")
    log.close()
    lines = list(tail(tmp_path / "log"))
    assert lines[0] == "first" and lines[-1] == "y" * 98
    assert lines[1] == "kt: lines lost here: 3 (No space left on device)"


def _refuse(*args: object, **kwargs: object) -> int:
    raise OSError(28, "No space left on device")


def test_the_register_reads_through_what_it_cannot_read(bench: Bench) -> None:
    ready(bench.start())
    Folder(bench.home, "m").state.write_text("{ half of it")
    assert runtime.find(bench.home, "m").state == "ready"
    assert procs.alive(runtime.find(bench.home, "m").supervisor)
    assert runtime.stop(bench.home, "m").state == "stopped"
