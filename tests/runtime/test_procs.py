"""Memory of a tree of processes."""

from __future__ import annotations

import subprocess
import sys

from kt_cli.runtime import procs

FORKS = """
import os, sys, time
held = bytearray(os.urandom(1)) * 100_000_000
for _ in range(4):
    if os.fork() == 0:
        time.sleep(60)
print("ready", flush=True)
sys.stdin.read()
import signal
os.killpg(0, signal.SIGKILL)
"""


def test_pages_that_forked_helpers_share_count_once() -> None:
    tree = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert tree.stdout and tree.stdin
    tree.stdout.readline()
    assert len(procs.descendants(tree.pid)) == 4
    assert 100_000_000 < procs.resident(tree.pid) < 200_000_000
    tree.stdin.close()
    tree.wait()
    tree.stdout.close()


def test_names_and_memory_of_what_is_gone_are_empty() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert procs.title(gone.pid) == "" and procs.resident(gone.pid) == 0
    assert procs.descendants(gone.pid) == ()
