"""The parts of the runtime that need no server."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime.bench import free_port

from kt_cli.core.events import Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.launch import Diagnosis, LaunchSpec
from kt_cli.runtime import autopsy, cgroup, health, logfile, procs
from kt_cli.runtime.journal import Journal, Reader
from kt_cli.runtime.register import Folder, Server, read, servers, write_state
from kt_cli.runtime.watch import LogWatch

SPEC = LaunchSpec("fake", "m", ("true",), "127.0.0.1", 1)


def watch(*lines: str, **fields: object) -> LogWatch:
    log = LogWatch(dataclasses.replace(SPEC, **fields))  # type: ignore[arg-type]
    list(log.feed("".join(f"{line}\n" for line in lines).encode()))
    return log


@given(st.data())
def test_progress_does_not_depend_on_how_the_log_is_cut(data: st.DataObject) -> None:
    text = b"kt-engine progress 0.10 a\nnoise \xff\nkt-engine progress 0.20 b\nkt-engine ready x\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    log = LogWatch(SPEC)
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    seen = [p for piece in pieces for p in log.feed(piece)]
    assert seen == [Progress("a", 0.1), Progress("b", 0.2)]
    assert log.said_ready and log.tail == ("noise \ufffd",)


def test_repeated_and_malformed_progress_is_left_out() -> None:
    log = LogWatch(SPEC)
    lines = (
        b"kt-engine progress 0.5 a\n" * 3 + b"kt-engine progress x a\nkt-engine failed nonsense\n"
    )
    assert list(log.feed(lines)) == [Progress("a", 0.5)]
    assert log.failure is None


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    log = LogWatch(SPEC)
    for _ in range(100):
        list(log.feed(b"x" * 4096))
    assert len(log._rest) < 20_000


def test_the_first_listed_diagnosis_wins_over_the_first_seen() -> None:
    known = (Diagnosis("precise", "A", "", ""), Diagnosis("vague", "B", "", ""))
    failure = autopsy.ended("m", 256, False, watch("vague", "precise", diagnoses=known), False)
    assert (failure.what, failure.exit_code) == ("A", 1)


@pytest.mark.parametrize(
    ("status", "oom", "word"),
    [
        (int(signal.SIGKILL), False, "killed it"),
        (int(signal.SIGKILL), True, "OOM killer"),
        (137 << 8, True, "OOM killer"),
        (int(signal.SIGSEGV), False, "memory"),
        (139 << 8, False, "memory"),
        (int(signal.SIGBUS), False, "/dev/shm"),
        (2 << 8, False, "did not say why"),
    ],
)
def test_a_wait_status_becomes_a_reason(status: int, oom: bool, word: str) -> None:
    failure = autopsy.ended("m", status, True, watch("last"), oom)
    assert word in failure.why
    assert failure.log_tail == ("last",)


def test_memory_running_out_beats_what_the_log_guesses() -> None:
    log = watch("child failed", diagnoses=(Diagnosis("failed", "A", "", ""),))
    assert "OOM" in autopsy.ended("m", 137 << 8, False, log, True).why
    assert autopsy.ended("m", 137 << 8, False, log, False).what == "A"


def test_oom_kills_are_counted_where_the_kernel_shows_them(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    before = autopsy.oom_count((tmp_path,))
    assert not autopsy.oom_count((tmp_path,)).grew_since(before)
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 2\n")
    assert autopsy.oom_count((tmp_path,)).grew_since(before)


EVENTS = (
    Starting("m", 1, "x"),
    Progress("a", 0.5, "b"),
    Progress("c"),
    Ready("http://h:1", 2.5),
    Failed("w", "y", "f", 137, ("a", "\u00e9")),
    Stopped("user"),
)


def test_events_round_trip_and_are_read_once(tmp_path: Path) -> None:
    journal, reader = Journal(tmp_path / "e"), Reader(tmp_path / "e")
    for event in EVENTS:
        journal.write(event)
    assert tuple(reader.fresh()) == EVENTS
    assert tuple(reader.fresh()) == ()


def test_half_a_line_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "e"
    Journal(path).write(Stopped("user"))
    whole = path.read_bytes()
    reader = Reader(path)
    path.write_bytes(whole[:10])
    assert list(reader.fresh()) == []
    path.write_bytes(whole + b'{"event": "of another version"}\n')
    assert list(reader.fresh()) == [Stopped("user")]


def test_a_log_keeps_the_newest_and_stays_below_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = logfile.BoundedLog(path, limit=100)
    for number in range(100):
        log.write(b"line %d\n" % number)
    lines = list(logfile.tail(path, 5))
    assert lines == [f"line {n}" for n in range(95, 100)]
    assert path.stat().st_size + logfile.older(path).stat().st_size <= 200


def test_a_follower_crosses_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = logfile.BoundedLog(path, limit=30)
    log.write(b"old\n")
    follower = logfile.Follower(path)
    seen = []
    for number in range(20):
        log.write(b"line %d\n" % number)
        seen += list(follower.fresh())
    assert seen == [f"line {n}" for n in range(20)]


def record(**fields: object) -> Server:
    this = procs.identify(os.getpid())
    assert this is not None
    base = {"name": "m", "model": "m", "engine": "e", "url": "http://127.0.0.1:9"}
    return Server(**{**base, "state": "ready", "started": 1.0, "supervisor": this, **fields})  # type: ignore[arg-type]


def put(home: Path, server: Server) -> Server | None:
    folder = Folder(home, server.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_state(folder, server)
    return read(folder)


def test_a_reused_pid_is_not_taken_for_the_server(tmp_path: Path) -> None:
    server = record()
    assert put(tmp_path, server) == server
    other = dataclasses.replace(server.supervisor, started=server.supervisor.started + 1)
    held = put(tmp_path, dataclasses.replace(server, supervisor=other))
    assert held is not None and held.state == "failed"


def test_a_record_from_before_a_restart_says_so(tmp_path: Path) -> None:
    other = dataclasses.replace(record().supervisor, where="another boot")
    held = put(tmp_path, record(supervisor=other))
    assert held is not None and held.failure is not None and "restarted" in held.failure.why


def test_broken_records_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, record(name="good"))
    folder = tmp_path / "run" / "bad"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps({"name": "bad"}))
    assert [s.name for s in servers(tmp_path)] == ["good"]


def test_no_register_means_no_servers(tmp_path: Path) -> None:
    assert servers(tmp_path / "nothing") == ()


def test_live_servers_come_first(tmp_path: Path) -> None:
    put(tmp_path, record(name="a", state="stopped", started=1.0))
    put(tmp_path, record(name="b", started=3.0))
    put(tmp_path, record(name="c", started=2.0))
    assert [s.name for s in servers(tmp_path)] == ["c", "b", "a"]


def test_a_process_is_told_by_more_than_its_pid() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = procs.identify(child.pid)
    assert process is not None and procs.alive(process)
    later = dataclasses.replace(process, started=process.started + 1)
    assert not procs.send(later, signal.SIGKILL)
    assert procs.send(process, signal.SIGKILL)
    assert procs.wait_end(process, 5)
    assert not procs.alive(process), "a zombie does not live"
    child.wait()
    assert procs.wait_end(process, 0)


def test_a_kernel_without_pidfd_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process = procs.identify(child.pid)
    assert process is not None and not procs.wait_end(process, 0.1)
    assert procs.send(process, signal.SIGKILL) and procs.wait_end(process, 5)
    assert not procs.send(process, signal.SIGKILL)
    child.wait()


def test_descendants_are_found_over_generations(tmp_path: Path) -> None:
    inner = "import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    child = subprocess.Popen([sys.executable, "-c", outer])
    deadline = time.monotonic() + 10
    while len(procs.descendants(child.pid)) < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    below = procs.descendants(child.pid)
    assert len(below) == 1
    assert child.pid in procs.descendants(os.getpid())
    for pid in (child.pid, *below):
        os.kill(pid, signal.SIGKILL)
    child.wait()


METRICS = """# HELP x y
sglang:num_running_reqs{model="m"} 2.0
sglang:num_queue_reqs{model="m"} 3.0
sglang:gen_throughput{model="m"} 41.5
sglang:generation_tokens_total{model="m",kind="a"} 5
sglang:generation_tokens_total{model="m",kind="b"} 6
broken line
"""


def test_load_is_read_from_either_engines_metrics() -> None:
    assert health.read_load(METRICS) == health.Load(2, 3, 41.5, 11)
    ours = "kt_requests_running 1\nkt_requests_waiting 0\nkt_generated_tokens_total 7\n"
    assert health.read_load(ours) == health.Load(1, 0, None, 7)
    assert health.read_load("") == health.Load()


def test_nobody_there_is_no_status() -> None:
    assert health.status(health.Address(f"http://127.0.0.1:{free_port()}", "/health")) is None


def cgroup_tree(tmp_path: Path, groups: str, mounts: str) -> Path:
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    (proc / "mountinfo").write_text(mounts)
    return proc


def test_a_group_is_made_below_ones_own(tmp_path: Path) -> None:
    (tmp_path / "cg" / "user").mkdir(parents=True)
    mounts = f"30 23 0:26 / {tmp_path}/cg rw - cgroup2 cgroup2 rw\n"
    proc = cgroup_tree(tmp_path, "0::/user\n", mounts)
    group = cgroup.create("m", proc)
    assert group is not None and group.parent == tmp_path / "cg" / "user"
    assert cgroup.own_groups(proc) == (tmp_path / "cg" / "user",)
    (group / "cgroup.procs").write_text("1")
    assert cgroup.create("n", proc) is not None and group.exists(), "groups in use stay"
    (group / "cgroup.procs").unlink()
    assert cgroup.create("o", proc) is not None and not group.exists(), "empty ones go"
    assert cgroup.remove(group)


def test_a_container_sees_its_groups_below_the_mounts_root(tmp_path: Path) -> None:
    (tmp_path / "cg").mkdir()
    mounts = f"30 23 0:26 /docker/abc {tmp_path}/cg rw - cgroup cgroup rw,memory\n"
    proc = cgroup_tree(tmp_path, "4:memory:/docker/abc\n1:cpu:/\n", mounts)
    assert cgroup.own_groups(proc) == (tmp_path / "cg",)


def test_without_permission_there_is_no_group(tmp_path: Path) -> None:
    mounts = "30 23 0:26 / /proc/nowhere rw - cgroup2 cgroup2 rw\n"
    assert cgroup.create("m", cgroup_tree(tmp_path, "0::/\n", mounts)) is None
    assert cgroup.create("m", tmp_path / "nothing") is None
