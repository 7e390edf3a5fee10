"""An engine is one file: planned, started, listed and stopped with no change elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commands.sglang_stand_in import tiny_mixtral
from runtime.bench import free_port

import kt_cli.engines
from kt_cli import app
from kt_cli.discovery import engine_names

TOY = """
import http.server, sys

from kt_cli.core.launch import LaunchSpec
from kt_cli.core.ledger import ram_pool
from kt_cli.core.plan import Item, Plan
from kt_cli.engines.serving import Serving


class Toy(Serving):
    name, title = "toy", "the toy engine"

    def plan(self, case, *, alternatives=False):
        settle, model = case.wishes.settle, case.model
        decisions = (
            settle("host", "host", "127.0.0.1", "this machine only"),
            settle("port", "port", 30000, "the usual one"),
            settle("context", "ctx_size", 77, "all that it knows"),
        )
        weights = Item("weights", model.total_bytes, "as they are stored")
        pools = (ram_pool(case.machine, [weights], 0),)
        return Plan(model.name, model.path, case.machine.name, "toy", pools, decisions)

    def python_for(self, machine):
        return sys.executable

    def lower(self, start, python):
        host, port = start.plan.value("host"), start.plan.value("port")
        argv = (python, __file__, host, str(port))
        return LaunchSpec("toy", start.plan.model, argv, host, port)


ENGINE = Toy()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


if __name__ == "__main__":
    address = (sys.argv[1], int(sys.argv[2]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


def kt(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and what is said, errors included."""
    code = app.run([*argv])
    return code, "".join(capsys.readouterr())


def listed(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str, str]]:
    app.run(["ps", "--json"])
    servers = json.loads(capsys.readouterr().out)["servers"]
    return [(s["name"], s["engine"], s["state"]) for s in servers]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "toy.py").write_text(TOY)
    folders = [*kt_cli.engines.__path__, str(tmp_path / "more")]
    monkeypatch.setattr(kt_cli.engines, "__path__", folders)
    monkeypatch.delitem(sys.modules, "kt_cli.engines.toy", raising=False)
    return str(tiny_mixtral(tmp_path / "tiny"))


def test_a_new_file_is_an_engine(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert engine_names() == ("sglang", "embedded", "toy")
    for argv, engine in ((["--engine", "toy"], "toy"), ([], "embedded")):
        assert app.run(["plan", model, "--json", *argv]) == 0
        assert json.loads(capsys.readouterr().out)["engine"] == engine


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--engine", "boy"), "sglang, embedded, toy"),
        (("--engine", "toy", "--no-such-flag"), "the toy engine takes no flags"),
        (("--engine", "toy", "--tp", "2"), "only SGLang has this"),
    ],
)
def test_what_means_nothing_to_it_is_refused(
    argv: tuple[str, ...], words: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = kt(capsys, "run", model, "--dry-run", *argv)
    assert code == 2 and words in said


def test_it_is_started_listed_and_stopped(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--engine", "toy", "-d", "-p", str(free_port()), "--name", "t")
    code, said = kt(capsys, "run", model, *flags)
    try:
        assert code == 0, said
        assert listed(capsys) == [("t", "toy", "ready")]
        code, said = kt(capsys, "plan", model, "--engine", "toy", "--check")
        assert code == 0, said
    finally:
        code, said = kt(capsys, "stop", "t")
    assert code == 0, said
    assert listed(capsys) == []
