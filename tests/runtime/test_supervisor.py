"""Servers under their supervisors, with an engine that behaves and misbehaves on request."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from runtime.bench import ENGINE, Bench, free_port, wait_for

from kt_cli import runtime
from kt_cli.core.events import Failed, Progress, Ready, Starting, Stopped
from kt_cli.core.launch import Diagnosis, Stage
from kt_cli.errors import NotFoundError, UsageError
from kt_cli.runtime import control, ports, procs
from kt_cli.runtime.register import Folder, Order, lock


def until_ready(bench: Bench, *flags: str, **fields: object) -> runtime.Server:
    for event in bench.start(*flags, **fields):  # type: ignore[arg-type]
        assert not isinstance(event, Failed), event
        if isinstance(event, Ready):
            break
    return runtime.find(bench.home, str(fields.get("name", "m")))


def failure_of(bench: Bench, *flags: str, **fields: object) -> Failed:
    last = list(bench.start(*flags, **fields))[-1]  # type: ignore[arg-type]
    assert isinstance(last, Failed)
    return last


def test_events_come_in_order_and_the_server_is_registered(bench: Bench) -> None:
    events = bench.start("--ready-after", "0.2")
    starting, *progress, ready = [next(events) for _ in range(4)]
    assert isinstance(starting, Starting) and isinstance(ready, Ready)
    assert [p.fraction for p in progress if isinstance(p, Progress)] == [0.25, 0.5]
    server = runtime.find(bench.home, "m")
    assert (server.state, server.pid, server.url) == ("ready", starting.pid, ready.url)
    runtime.stop(bench.home, "m")
    assert list(events) == [Stopped("user")]


def test_usage_counts_the_tree_and_reads_the_metrics(bench: Bench) -> None:
    usage = runtime.usage(until_ready(bench))
    assert usage.memory > 5_000_000
    assert (usage.load.running, usage.load.waiting) == (2, 1)


@pytest.mark.parametrize("kind", ["plain", "deaf", "daemon"])
def test_stopping_leaves_no_process_behind(bench: Bench, kind: str) -> None:
    until_ready(bench, "--spawn", kind)
    assert len(bench.left()) >= 4
    assert runtime.stop(bench.home, "m").state == "stopped"
    assert bench.left() == []


def test_an_engine_deaf_to_sigterm_is_killed_after_its_grace(bench: Bench) -> None:
    until_ready(bench, "--ignore-term", "--spawn", "deaf", grace_s=0.5)
    began = time.monotonic()
    runtime.stop(bench.home, "m")
    assert 0.4 < time.monotonic() - began < 4
    assert bench.left() == []


def test_stop_now_does_not_wait_for_the_grace(bench: Bench) -> None:
    until_ready(bench, "--ignore-term", grace_s=3600)  # longer than any test may take
    runtime.stop(bench.home, "m", now=True)
    assert bench.left() == []


def test_kill_of_the_engine_is_noticed_and_explained_within_two_seconds(bench: Bench) -> None:
    server = until_ready(bench, "--spawn", "plain")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    began = time.monotonic()
    assert wait_for(lambda: runtime.find(bench.home, "m").state == "failed", 2)
    assert time.monotonic() - began < 2
    failure = runtime.find(bench.home, "m").failure
    assert failure is not None and "SIGKILL" in failure.what and failure.exit_code == 137
    assert bench.none_left()


def test_an_engine_that_lives_on_without_its_worker_has_failed(bench: Bench) -> None:
    server = until_ready(bench, "--spawn", "plain")
    assert server.pid is not None
    (worker,) = procs.descendants(server.pid)
    os.kill(worker, signal.SIGKILL)
    assert wait_for(lambda: runtime.find(bench.home, "m").state == "failed", 6)
    failure = runtime.find(bench.home, "m").failure
    assert failure is not None and failure.exit_code == 137
    assert f"{worker}) of m was killed by SIGKILL" in failure.what
    assert bench.none_left()


def test_a_crash_while_loading_carries_the_last_lines(bench: Bench) -> None:
    flags = ("--never-ready", "--say", "boom", "--die-after", "0", "--exit-code", "3")
    failure = failure_of(bench, *flags, "--spawn", "deaf")
    assert "exit code 3 while starting" in failure.what
    assert failure.exit_code == 3 and "boom" in failure.log_tail
    assert bench.none_left()


def test_a_native_crash_names_its_signal(bench: Bench) -> None:
    failure = failure_of(bench, "--die-after", "0", "--die-signal", str(int(signal.SIGILL)))
    assert "SIGILL" in failure.what and "instruction" in failure.why


def test_the_engines_own_words_are_the_diagnosis(bench: Bench) -> None:
    words = json.dumps({"what": "no such rule", "why": "typo", "fix": "mend it"})
    failure = failure_of(
        bench, "--never-ready", "--say", f"kt-engine failed {words}", "--die-after", "0"
    )
    assert (failure.what, failure.why, failure.fix) == ("no such rule", "typo", "mend it")


def test_a_known_log_line_is_the_diagnosis(bench: Bench) -> None:
    known = Diagnosis(r"CUDA out of memory", "too little VRAM", "{line}", "see `kt logs {name}`")
    flags = (
        "--never-ready",
        "--say",
        "CUDA out of memory!",
        "--die-after",
        "0",
        "--exit-code",
        "1",
    )
    failure = failure_of(bench, *flags, diagnoses=(known,))
    assert failure.what == "too little VRAM"
    assert (failure.why, failure.fix) == ("CUDA out of memory!", "see `kt logs m`")


def test_patterns_of_a_foreign_engine_give_progress(bench: Bench) -> None:
    stage = Stage(r"^Load weight end", "weights loaded", 0.8)
    events = bench.start("--say", "Load weight end. 3 s", stages=(stage,))
    seen = [next(events) for _ in range(5)]
    assert Progress("weights loaded", 0.8) in seen


def test_an_engine_that_never_becomes_ready_is_given_up(bench: Bench) -> None:
    failure = failure_of(bench, "--never-ready", "--spawn", "plain", ready_timeout_s=1.0)
    assert "not ready after 1 s" in failure.what
    assert bench.none_left()


def test_a_missing_program_is_named(bench: Bench) -> None:
    spec = bench.spec()
    spec = dataclasses.replace(spec, argv=("/nonexistent/engine",))
    last = list(runtime.start(spec, bench.home, "m"))[-1]
    assert isinstance(last, Failed)
    assert "/nonexistent/engine" in last.why and "No such file" in last.why


def test_a_flood_of_output_is_bounded_and_does_not_block(bench: Bench) -> None:
    until_ready(bench, "--flood", "200000")
    files = list((bench.home / "run" / "m").glob("engine.log*"))
    assert len(files) == 2
    assert sum(f.stat().st_size for f in files) < 34_000_000
    tail = list(runtime.logs(bench.home, "m", lines=3))
    assert wait_for(lambda: any("199999" in x for x in runtime.logs(bench.home, "m", lines=3))), (
        tail
    )


def test_output_that_is_not_utf8_is_shown_with_replacements(bench: Bench) -> None:
    until_ready(bench, "--garbage")
    assert any(line.startswith("caf\ufffd") for line in runtime.logs(bench.home, "m"))


def test_following_the_log_ends_with_the_server(bench: Bench) -> None:
    until_ready(bench, "--say", "hello")
    lines = runtime.logs(bench.home, "m", follow=True)
    assert any(next(lines) == "hello" for _ in range(3))
    runtime.ask_to_stop(bench.home, "m")
    assert isinstance(list(lines), list)


def test_a_killed_supervisor_takes_everything_with_it(bench: Bench) -> None:
    server = until_ready(bench, "--spawn", "plain", "--spawn", "deaf", "--spawn", "daemon")
    os.kill(server.supervisor.pid, signal.SIGKILL)
    assert bench.none_left()
    crashed = runtime.find(bench.home, "m")
    assert crashed.state == "failed" and crashed.failure is not None


def test_a_killed_keeper_takes_everything_with_it(bench: Bench) -> None:
    server = until_ready(bench, "--spawn", "plain", "--spawn", "deaf", "--spawn", "daemon")
    keeper = procs.descendants(server.supervisor.pid)[0]
    assert keeper != server.pid
    os.kill(keeper, signal.SIGKILL)
    assert bench.none_left()
    assert runtime.find(bench.home, "m").state == "failed"


def test_following_a_crashed_supervisor_ends_with_a_failure(bench: Bench) -> None:
    server = until_ready(bench)
    os.kill(server.supervisor.pid, signal.SIGKILL)
    assert isinstance(list(runtime.follow(bench.home, "m"))[-1], Failed)


def test_an_attached_server_ends_with_its_client(bench: Bench, tmp_path: Path) -> None:
    spec = bench.spec("--spawn", "deaf")
    code = f"""
from pathlib import Path
from kt_cli import runtime
from kt_cli.core.launch import LaunchSpec
spec = LaunchSpec("fake", "m", {spec.argv!r}, "127.0.0.1", {spec.port}, env={dict(spec.env)!r})
for event in runtime.start(spec, Path({str(bench.home)!r}), "m", attached=True):
    pass
"""
    root = str(Path(runtime.__file__).parents[2])
    client = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert wait_for(lambda: any(s.state == "ready" for s in runtime.servers(bench.home)))
    client.kill()
    client.wait()
    assert bench.none_left(8)
    assert runtime.find(bench.home, "m").state == "stopped"


def test_a_second_server_of_the_same_name_is_refused(bench: Bench) -> None:
    until_ready(bench)
    with pytest.raises(UsageError, match="running already"):
        bench.start()


def test_a_name_can_be_used_again_at_once(bench: Bench) -> None:
    until_ready(bench, "--say", "first")
    assert runtime.ask_to_stop(bench.home, "m")
    assert wait_for(lambda: runtime.find(bench.home, "m").state != "ready")
    assert until_ready(bench, "--say", "second").state == "ready"
    lines = list(runtime.logs(bench.home, "m"))
    assert "second" in lines and "first" not in lines


def test_a_busy_port_of_ours_names_the_server(bench: Bench) -> None:
    server = until_ready(bench)
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(UsageError) as caught:
        bench.start(name="other", port=port)
    assert "server m" in caught.value.why and "`kt stop m`" in caught.value.fix
    assert not (bench.home / "run" / "other" / "engine.log").exists()


def test_the_key_reaches_the_engine_and_no_command_line(bench: Bench) -> None:
    spec = bench.spec()
    for event in runtime.start(spec, bench.home, "m", key="kt-secret-key"):
        if isinstance(event, Ready):
            break
    server = runtime.find(bench.home, "m")
    assert runtime.api_key(server) == "kt-secret-key"
    with urllib.request.urlopen(server.url + "/env") as answer:
        assert answer.read() == b"kt-secret-key"
    lines = [Path(f"/proc/{p}/cmdline").read_bytes() for p in bench.left()]
    assert lines and all(b"kt-secret-key" not in line for line in lines)
    folder = bench.home / "run" / "m"
    assert folder.stat().st_mode & 0o077 == 0
    holding = [f for f in folder.iterdir() if b"kt-secret-key" in f.read_bytes()]
    assert [f.name for f in holding] == ["api-key"]
    assert all(f.stat().st_mode & 0o077 == 0 for f in holding)


def test_a_key_of_the_callers_environment_does_not_leak_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KT_API_KEY", "somebody-elses")
    server = until_ready(bench)
    with urllib.request.urlopen(server.url + "/env") as answer:
        assert answer.read() == b"-"


def test_ready_is_not_taken_from_somebody_elses_server(bench: Bench) -> None:
    port = free_port()
    env = {**os.environ, "KT_TEST_MARK": bench.mark}
    other = subprocess.Popen([sys.executable, str(ENGINE), "--port", str(port)], env=env)
    assert wait_for(lambda: not _free(port))
    spec = bench.spec("--never-ready", port=port, ready_timeout_s=1.5)
    argv = (*spec.argv[:2], "--port", str(free_port()), "--never-ready")
    held = dataclasses.replace(spec, argv=argv)
    folder = Folder(bench.home, "m")
    folder.path.mkdir(parents=True)
    number = lock(folder)
    assert number is not None
    control._prepare(folder, Order("m", held, 1.0), None)
    control._spawn(folder, number)
    os.close(number)
    events = list(runtime.follow(bench.home, "m"))
    other.kill()
    other.wait()
    assert not any(isinstance(e, Ready) for e in events)


def _free(port: int) -> bool:
    return ports.is_free("127.0.0.1", port)


def test_unknown_names_are_not_found(bench: Bench) -> None:
    with pytest.raises(NotFoundError, match="no server is called x"):
        runtime.stop(bench.home, "x")
    with pytest.raises(UsageError, match="cannot be a server's name"):
        runtime.find(bench.home, "../x")


def test_stopping_a_failed_server_clears_it(bench: Bench) -> None:
    failure_of(bench, "--die-after", "0", "--exit-code", "1", "--never-ready")
    server = runtime.stop(bench.home, "m")
    assert server.state == "stopped" and server.failure is None


def members(bench: Bench) -> dict[str, int]:
    """Who runs for server m: supervisor, keeper, engine."""
    server = runtime.find(bench.home, "m")
    keeper, engine, *_ = procs.descendants(server.supervisor.pid)
    return {"supervisor": server.supervisor.pid, "keeper": keeper, "engine": engine}


@pytest.mark.parametrize("moment", ["loading", "ready", "stopping"])
def test_whoever_is_killed_whenever_nothing_stays_and_the_name_can_be_used_again(
    bench: Bench, moment: str
) -> None:
    for victim in ("supervisor", "keeper", "engine"):
        flags = ("--never-ready",) if moment == "loading" else ("--ignore-term",)
        events = bench.start(*flags, "--spawn", "deaf")
        wanted = Progress if moment == "loading" else Ready
        next(e for e in events if isinstance(e, wanted))
        if moment == "stopping":
            runtime.ask_to_stop(bench.home, "m")
            assert wait_for(lambda: runtime.find(bench.home, "m").state == "stopping")
        os.kill(members(bench)[victim], signal.SIGKILL)
        assert bench.none_left(10), (moment, victim)
        ended = runtime.find(bench.home, "m")
        expected = {"failed"} if moment != "stopping" else {"failed", "stopped"}
        assert ended.state in expected, (moment, victim, ended)
        assert isinstance(list(events)[-1], (Failed, Stopped))
        assert runtime.stop(bench.home, "m").state == "stopped"


def test_a_client_killed_at_any_moment_leaves_no_server_that_nobody_knows(
    bench: Bench, tmp_path: Path
) -> None:
    """A detached start that is cut off: the server runs on and is on record, or nothing runs."""
    spec = bench.spec("--ready-after", "0.2")
    code = f"""
from pathlib import Path
from kt_cli import runtime
from kt_cli.core.launch import LaunchSpec
spec = LaunchSpec("fake", "m", {spec.argv!r}, "127.0.0.1", {spec.port}, env={dict(spec.env)!r})
print("here", flush=True)
for event in runtime.start(spec, Path({str(bench.home)!r}), "m"):
    pass
"""
    root = str(Path(runtime.__file__).parents[2])
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        client = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert client.stdout is not None and client.stdout.readline() == b"here\n"
        time.sleep(delay)
        client.kill()
        client.communicate()
        known = wait_for(lambda: any(s.live for s in runtime.servers(bench.home)), 2)
        assert known or bench.none_left(), delay
        if known:
            runtime.stop(bench.home, "m", now=True)
        assert bench.none_left(), delay
