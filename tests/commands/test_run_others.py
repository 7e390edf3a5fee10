"""`kt ps`, `kt logs` and `kt stop` on servers of a stand-in engine."""

from __future__ import annotations

import json

import pytest
from runtime.bench import Bench

from kt_cli import app, runtime
from kt_cli.core.events import Ready


@pytest.fixture
def kt(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("KT_HOME", str(bench.home))

    def call(*argv: str) -> tuple[int, str, str]:
        code = app.run(list(argv))
        return (code, *capsys.readouterr())

    return call


def up(bench: Bench, name: str, *flags: str) -> None:
    assert any(isinstance(e, Ready) for e in _until(bench.start(*flags, name=name), Ready))


def _until(events, kind):
    for event in events:
        yield event
        if isinstance(event, kind):
            return


def test_ps_shows_what_runs(bench: Bench, kt) -> None:
    assert kt("ps") == (0, "no server is running\n", "")
    up(bench, "one")
    code, out, _ = kt("ps", "--json")
    (server,) = json.loads(out)["servers"]
    assert code == 0
    assert (server["name"], server["state"]) == ("one", "ready")
    assert server["memory"] > 0 and server["load"]["running"] == 2
    _, out, _ = kt("ps")
    assert "one" in out and "ready" in out
    assert kt("stop")[1] == "one is stopped\n"
    assert kt("ps")[1] == "no server is running\n"
    assert "stopped" in kt("ps", "--all")[1]


def test_a_failed_server_is_listed_until_it_is_stopped(bench: Bench, kt) -> None:
    list(bench.start("--never-ready", "--die-after", "0", "--exit-code", "3", name="bad"))
    assert "exit code 3" in kt("ps")[1]
    assert kt("stop", "bad")[0] == 0
    assert kt("ps")[1] == "no server is running\n"


def test_logs_print_the_last_lines(bench: Bench, kt) -> None:
    up(bench, "one", "--say", "alpha", "--say", "beta")
    assert "alpha\nbeta\n" in kt("logs")[1]
    assert len(kt("logs", "one", "-n", "2")[1].splitlines()) == 2
    line = json.loads(kt("--json", "logs", "-n", "1")[1])
    assert line["schema"] == "kt.event.log/1"
    kt("stop")
    assert "alpha" in kt("logs")[1], "the log outlives its server"


def test_several_servers_need_a_name_or_all(bench: Bench, kt) -> None:
    up(bench, "one")
    up(bench, "two")
    code, _, err = kt("stop")
    assert code == 2 and "one, two" in err
    code, _, err = kt("stop", "--all")
    assert code == 2 and "--yes" in err
    code, out, _ = kt("stop", "--all", "--yes")
    assert (code, out) == (0, "one is stopped\ntwo is stopped\n")
    assert bench.left() == []


def test_unknown_and_missing_servers(bench: Bench, kt) -> None:
    assert kt("stop")[0] == 3
    assert kt("logs")[0] == 3
    assert kt("stop", "--all") == (0, "no server is running\n", "")
    code, _, err = kt("stop", "nobody")
    assert code == 3 and "no server is called nobody" in err
    assert runtime.servers(bench.home) == ()
