"""Readiness of slow servers, and workers that an engine has lost."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

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
