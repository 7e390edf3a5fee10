"""`kt run` from the start of the engine on: progress, readiness, Ctrl-C, a closing terminal."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pexpect
import pytest
from runtime.bench import Bench, wait_for

from kt_cli import runtime
from kt_cli.core.serial import to_plain

DRIVER = str(Path(__file__).with_name("serve_driver.py"))
ROOT = str(Path(runtime.__file__).parents[2])


def spawn(bench: Bench, *flags: str, own: tuple[str, ...] = ()) -> pexpect.spawn:
    spec = json.dumps(to_plain(bench.spec(*flags)))
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "KT_HOME": str(bench.home), "PYTHONPATH": path, "TERM": "xterm"}
    env.pop("CI", None)
    args = [DRIVER, spec, *own]
    return pexpect.spawn(
        sys.executable, args, env=env, timeout=20, encoding="utf-8", preexec_fn=_hear_hang_ups
    )


def _hear_hang_ups() -> None:
    """The tests themselves may run under nohup, which a child would inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def finish(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus if child.exitstatus is not None else -child.signalstatus


def test_ctrl_c_stops_a_ready_server_and_leaves_nothing(bench: Bench) -> None:
    child = spawn(bench, "--ready-after", "0.3", "--spawn", "deaf", "--spawn", "daemon")
    child.expect(r"m is ready at http://127\.0\.0\.1:\d+/v1 after")
    child.expect("kt chat")
    child.expect("curl http.*chat/completions")
    child.sendintr()
    child.expect("m is stopped")
    assert finish(child) == 0
    assert bench.left() == []


def test_ctrl_c_while_loading_is_an_interruption(bench: Bench) -> None:
    child = spawn(bench, "--never-ready", "--spawn", "plain")
    assert wait_for(lambda: runtime.servers(bench.home) and len(bench.left()) >= 4)
    child.sendintr()
    assert finish(child) == 130
    assert bench.left() == []


def test_a_second_ctrl_c_kills_an_engine_that_does_not_listen(bench: Bench) -> None:
    child = spawn(bench, "--ignore-term")
    child.expect("is ready")
    child.sendintr()
    child.expect("Ctrl-C again")
    began = time.monotonic()
    child.sendintr()
    assert finish(child) == 0
    assert time.monotonic() - began < 5
    assert bench.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_server_ends_with_the_command(bench: Bench, number: signal.Signals) -> None:
    child = spawn(bench, "--spawn", "deaf")
    child.expect("kt stop m")
    child.kill(number)
    code = finish(child)
    assert code == {signal.SIGTERM: 0, signal.SIGHUP: 129, signal.SIGKILL: -9}[number]
    assert bench.none_left(8)
    assert runtime.find(bench.home, "m").state == "stopped"


def test_a_closed_terminal_ends_the_server(bench: Bench) -> None:
    child = spawn(bench, "--spawn", "deaf")
    child.expect("kt stop m")
    os.close(child.child_fd)
    assert bench.none_left(8)


def test_a_detached_server_outlives_the_command(bench: Bench) -> None:
    child = spawn(bench, own=("-d",))
    child.expect("kt stop m")
    assert finish(child) == 0
    assert runtime.find(bench.home, "m").state == "ready"
    runtime.stop(bench.home, "m")
    assert bench.left() == []


def test_a_failed_start_shows_last_lines_diagnosis_and_exit_code(bench: Bench) -> None:
    flags = ("--never-ready", "--say", "the last words", "--die-after", "0", "--exit-code", "3")
    child = spawn(bench, *flags, own=("-d",))
    child.expect("the last words")
    child.expect("exit code 3 while starting")
    assert finish(child) == 8
    assert bench.none_left()


def test_an_engine_killed_in_the_foreground_is_reported_at_once(bench: Bench) -> None:
    child = spawn(bench)
    child.expect("kt stop m")
    pid = runtime.find(bench.home, "m").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    child.expect("killed by SIGKILL")
    assert time.monotonic() - began < 2
    assert finish(child) == 8


def test_json_gives_one_object_per_line(bench: Bench) -> None:
    child = spawn(bench, "--ready-after", "0.2", own=("-d", "--json"))
    child.expect(pexpect.EOF)
    lines = [json.loads(line) for line in child.before.splitlines() if line.strip()]
    kinds = [line["schema"] for line in lines]
    assert kinds[0] == "kt.event.starting/1"
    assert kinds[-2:] == ["kt.event.ready/1", "kt.event.run/1"]
    assert lines[-1]["server"]["state"] == "ready"
    runtime.stop(bench.home, "m")
