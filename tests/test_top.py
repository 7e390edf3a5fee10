"""`kt top` in a real terminal: draws, ends on Ctrl-C, leaves the screen as it was."""

import json
import os
import sys

import pexpect
import pytest

from kt_cli.app import run
from kt_cli.ui.top import bar, cores_line


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_HOME", str(tmp_path))


def test_once_is_data(capsys) -> None:
    assert run(["top", "--once", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    cpus = {int(c) for node in data["cores"].values() for c in node}
    assert set(os.sched_getaffinity(0)) <= cpus
    assert 0 < data["memory"]["used"] < data["memory"]["total"]


def test_it_refuses_to_draw_into_a_pipe(capsys) -> None:
    assert run(["top"]) == 2


def test_the_terminal_is_left_as_it_was() -> None:
    code = "import sys; from kt_cli.app import run; sys.exit(run(['top', '--interval', '0.2']))"
    env = {k: v for k, v in os.environ.items() if k != "CI"} | {"TERM": "xterm"}
    child = pexpect.spawn(sys.executable, ["-c", code], env=env, dimensions=(24, 80), timeout=20)
    child.expect_exact("\x1b[?1049h")
    child.expect("node0")
    child.expect("no server is running")
    child.sendintr()
    child.expect_exact("\x1b[?1049l")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_bars_fill_with_their_share() -> None:
    assert cores_line([0, 0.5, 1]) == " ▄█"
    assert cores_line([0, 1], unicode=False) == " @"
    assert bar(1, 2, unicode=False).count("#") == 12
