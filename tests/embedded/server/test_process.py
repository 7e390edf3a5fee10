"""The engine as a process: its lines, its port, its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import kt_cli
from embedded.server.fake import wait_until

END_S = 4.0
"""Two seconds is what is promised; a busy machine gets twice that."""
TESTS = Path(__file__).parents[2]


class Process:
    def __init__(self, *argv: str, **env: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fake_main.py")), *argv]
        clean = {k: v for k, v in os.environ.items() if k not in ("KT_API_KEY", "OMP_NUM_THREADS")}
        path = os.pathsep.join([str(TESTS), str(Path(kt_cli.__file__).parents[1])])
        self.popen = subprocess.Popen(
            command,
            env={**clean, "PYTHONPATH": path, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(iter(self.popen.stderr.readline, ""))

    def line(self, start: str) -> str:
        def found() -> list[str]:
            return [line for line in self.lines if line.startswith(f"kt-engine {start}")]

        wait_until(lambda: bool(found()), 20)
        return found()[0].strip().removeprefix(f"kt-engine {start}").strip()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        started = time.perf_counter()
        self.popen.send_signal(number)
        code = self.popen.wait(10)
        self._reader.join(5)
        return code, time.perf_counter() - started


@contextmanager
def started(*argv: str, **env: str) -> Iterator[Process]:
    process = Process("--port", "0", *argv, **env)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.wait(10)
        process.popen.stdout.close()


def test_lines_tell_the_way_to_ready():
    with started("--model", "stages", "--name", "demo") as process:
        url = process.line("ready")
        assert process.line("listening") == url
        assert process.line("progress") == "0.33 loading layer 1/3"
        assert process.line("note") == "rule 2 takes no module"
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "demo"


def test_options_reach_the_engine_and_the_environment():
    argv = ["--model", "plain", "--context", "512", "--max-batch", "3", "--threads", "2"]
    with started(*argv, "--dtype", "fp32", "--kv-tokens", "2048") as process:
        options = json.loads(process.popen.stdout.readline())
    assert options == {
        "context": 512,
        "max_batch": 3,
        "threads": 2,
        "dtype": "fp32",
        "kv_tokens": 2048,
        "trust_remote_code": False,
        "omp": "2",
    }


def test_the_port_answers_while_the_model_loads():
    with started("--model", "slow") as process:
        url = process.line("listening")
        process.line("progress")
        assert httpx.get(f"{url}/health").status_code == 503
        code, seconds = process.end()
    assert (code, seconds < END_S) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_running_streams_and_the_process(number):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with started("--model", "endless", "--name", "m") as process:
        url = process.line("ready")
        stream = httpx.stream("POST", f"{url}/v1/chat/completions", json=body)
        with stream as response:
            lines = response.iter_lines()
            next(lines)
            code, seconds = process.end(number)
            rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "server_shutting_down"
    assert (code, seconds < END_S) == (0, True)
    assert process.line("stopped") == ""


def test_an_idle_connection_does_not_delay_the_end():
    with started("--model", "plain") as process:
        url = process.line("ready")
        with httpx.Client() as client:
            client.get(f"{url}/health")
            code, seconds = process.end()
    assert (code, seconds < END_S) == (0, True)


@pytest.mark.parametrize(("model", "code"), [("huge", 5), ("broken", 1)])
def test_a_failed_load_is_one_line_and_an_exit_code(model, code):
    with started("--model", model) as process:
        failure = json.loads(process.line("failed"))
        assert process.popen.wait(10) == code
    assert set(failure) == {"what", "why", "fix"}
    assert all(failure.values())


def test_an_engine_that_died_ends_the_process_with_its_reason():
    with started("--model", "dead", "--name", "m") as process:
        url = process.line("ready")
        response = httpx.post(f"{url}/v1/completions", json={"model": "m", "prompt": "x"})
        assert response.status_code == 503
        assert process.popen.wait(5) == 8
        assert json.loads(process.line("failed"))["why"] == "out of memory"


def test_a_busy_port_fails_before_loading():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        process = Process("--model", "slow", "--port", port)
        assert process.popen.wait(10) == 1
        assert port in json.loads(process.line("failed"))["what"]
        process.popen.stdout.close()


def test_the_network_needs_a_key():
    with started("--model", "plain", "--host", "0.0.0.0") as process:
        assert process.popen.wait(10) == 4
        assert "API key" in json.loads(process.line("failed"))["what"]


def test_the_key_comes_from_the_named_variable():
    with started("--model", "plain", "--api-key-env", "MY_KEY", MY_KEY="s3cret") as process:
        url = process.line("ready")
        assert httpx.get(f"{url}/v1/models").status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
    with started("--model", "plain", "--api-key-env", "MY_KEY") as process:
        assert process.popen.wait(10) == 4
