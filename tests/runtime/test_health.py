"""Readiness and load of slow servers, and workers that an engine has lost."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kt_cli.runtime import health
from kt_cli.runtime.workers import Workers


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers like SGLang: when it has generated a token, here after 2.3 s."""

    asked = 0

    def do_GET(self) -> None:
        Slow.asked += 1
        time.sleep(2.3)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_thinks_for_seconds_is_asked_once() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reading, wake = os.pipe()
    address = health.Address(f"http://127.0.0.1:{server.server_port}", "/health")
    probe = health.ReadyProbe(address, wake, lambda: True)
    probe.start()
    probe.join(10)
    server.shutdown()
    server.server_close()
    assert os.read(reading, 1) == b"r"
    assert Slow.asked == 1
    os.close(reading)
    os.close(wake)


LIVE = """sglang:num_running_reqs{model_name="m8",tp_rank="0"} 1.0
sglang:num_queue_reqs{model_name="m8",tp_rank="0"} 0.0
sglang:num_used_tokens{model_name="m8",tp_rank="0"} 71.0
sglang:max_total_num_tokens{model_name="m8",tp_rank="0"} 90112.0
sglang:gen_throughput{model_name="m8",tp_rank="0"} 109.2736202463162
sglang:generation_tokens_total{model_name="m8"} 392.0
sglang:realtime_tokens_total{mode="prefill_compute",model_name="m8",tp_rank="0"} 45693.0
sglang:realtime_tokens_total{engine_type="unified",mode="decode",model_name="m8"} 467.0
"""
"""Of sglang-kt 0.7.2, cut down."""


def test_sglang_counts_each_token_but_says_late_what_it_does() -> None:
    assert health.read_load(LIVE) == health.Load(1, 0, None, 467, 71, 90112, lags=True)


@pytest.mark.parametrize(("tokens", "running"), [(0, 0), (40, 1)])
def test_what_sglang_did_last_is_not_what_it_does(tokens: int, running: int) -> None:
    with serving([LIVE, LIVE.replace("467.0", f"{467 + tokens}.0")]) as url:
        load = health.load(health.Address(url, "/metrics"), 5.0)
    assert load.running == running
    assert load.tokens_s is not None and (load.tokens_s > 0) == (tokens > 0)


@contextmanager
def serving(texts: list[str]) -> Iterator[str]:
    """A server that says one text after the other."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(texts.pop(0).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


SLEEPER = (sys.executable, "-c", "import time; time.sleep(60)")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEPER)
    yield process
    process.kill()
    process.wait()


def ended(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    child.send_signal(number)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_a_killed_child_is_lost_when_it_was_seen_twice(child: subprocess.Popen[bytes]) -> None:
    workers = Workers(os.getpid())
    assert workers.lost(0.0) is None
    ended(child, signal.SIGKILL)
    assert workers.lost(1.0) is None, "looked a moment ago"
    assert workers.lost(2.0) is None, "its parent may yet collect it"
    lost = workers.lost(4.0)
    assert lost is not None
    assert (lost.pid, os.WTERMSIG(lost.status)) == (child.pid, signal.SIGKILL)
    assert lost.title.startswith("python")


def test_a_child_that_was_asked_to_end_is_not_missed(child: subprocess.Popen[bytes]) -> None:
    workers = Workers(os.getpid())
    ended(child, signal.SIGTERM)
    assert [workers.lost(float(t)) for t in (0, 2, 4)] == [None] * 3


def test_a_collected_child_is_not_missed(child: subprocess.Popen[bytes]) -> None:
    workers = Workers(os.getpid())
    ended(child, signal.SIGKILL)
    workers.lost(0.0)
    child.wait()
    assert workers.lost(2.0) is None
