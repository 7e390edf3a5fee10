"""The parts of `kt run` before anything starts."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kt_cli import app
from kt_cli.commands import run
from kt_cli.commands.ps import span
from kt_cli.core.plan import Fix, Plan, Problem
from kt_cli.core.remedy import Replan
from kt_cli.engines.facts import read_facts
from kt_cli.errors import AuthError, DoesNotFitError
from kt_cli.options import RunOptions
from kt_cli.workflow.follow import curl
from kt_cli.workflow.plan import Planned, fitting
from tests.core.builders import machine, small_model


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("Qwen/Qwen3-30B-A3B", "Qwen3-30B-A3B"),
        ("./models/My Model/", "My-Model"),
        ("/", "model"),
        (".hidden", "hidden"),
        ("x" * 100, "x" * 64),
    ],
)
def test_a_server_is_named_after_its_model(model: str, name: str) -> None:
    assert run.server_name(model) == name


WAYS = (Fix("shorter context", "saves 2 GB", "--ctx-size 4k"), Fix("buy memory", "helps"))
PROBLEMS = (Problem("note", "", "info"), Problem("too big", "needs 9 GB", fixes=WAYS))
TOO_BIG = Plan("m", "/m", "box", "embedded", (), (), PROBLEMS)


def asked(replan: Replan | None = None, **options: Any) -> Planned:
    wanted = RunOptions(model="m", **options)
    return Planned(TOO_BIG, machine(), small_model(), wanted, read_facts(), replan)


def test_a_plan_that_does_not_fit_stops_with_its_ways_out() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        run._require_fit(asked())
    error = caught.value
    assert (error.what, error.why, error.exit_code) == ("too big", "needs 9 GB", 5)
    assert "--ctx-size 4k, or buy memory, or --force" in error.fix


def test_force_starts_it_all_the_same() -> None:
    run._require_fit(asked(force=True))


def test_a_plan_that_does_not_fit_names_the_command_that_does() -> None:
    """Planned, not believed: the first flag says it fits and does not."""
    ways = (
        Fix("more", "fits", "--tp 2"),
        Fix("a folder", "fits", "--weights-path FOLDER"),
        Fix("both", "frees 1 GB, 1 GB still missing", "--ctx-size 4096"),
    )
    made = replace(TOO_BIG, problems=(Problem("too big", "", fixes=ways),))

    def replan(options: RunOptions) -> Plan:
        fits = options.ctx_size == 4096 and options.tp == 2
        return replace(made, problems=()) if fits else made

    planned = replace(asked(replan), plan=made)
    with pytest.raises(DoesNotFitError, match="too big") as caught:
        run._require_fit(planned)
    assert "`kt run m --ctx-size 4096 --tp 2`, or --force" in caught.value.fix
    assert fitting(replace(planned, replan=lambda _: made)) is None


def test_the_network_demands_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KT_API_KEY", raising=False)
    with pytest.raises(AuthError, match=r"0\.0\.0\.0"):
        run._api_key(RunOptions(), "0.0.0.0")
    assert run._api_key(RunOptions(), "127.0.0.1") is None
    assert run._api_key(RunOptions(api_key="k"), "0.0.0.0") == "k"
    made = [run._api_key(RunOptions(api_key="auto"), "0.0.0.0") for _ in range(2)]
    assert made[0] != made[1] and all(k and len(k) > 20 for k in made)
    monkeypatch.setenv("KT_API_KEY", "from-environment")
    assert run._api_key(RunOptions(), "0.0.0.0") == "from-environment"


def test_the_curl_line_is_good_shell() -> None:
    line = curl("http://127.0.0.1:1", "it's", with_key=True)
    words = shlex.split(line)
    assert words[:2] == ["curl", "http://127.0.0.1:1/v1/chat/completions"]
    assert "Authorization: Bearer $KT_API_KEY" in words
    assert '"model": "it\'s"' in words[-1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5 s"), (65, "1 min"), (7500, "2 h 05 min"), (360000, "4 d 4 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    return tmp_path


def test_a_dry_run_fetches_and_starts_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KT_SERVER_PORT", "31234")
    assert app.run(["run", "demo", "--dry-run", "--json", "-c", "2k"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["schema"] == "kt.run/1"
    argv = shown["argv"]
    assert argv[argv.index("--port") + 1] == "31234"
    assert argv[argv.index("--context") + 1] == "2048"
    sources = {d["name"]: d["source"] for d in shown["plan"]["decisions"]}
    assert (sources["port"], sources["context"]) == ("environment", "flag")
    assert not (home / "models").exists() and not (home / "run").exists()


def test_explain_gives_the_reasons_and_the_command_can_be_pasted(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["run", "demo", "--dry-run", "--explain", "--served-model-name", "my demo"]) == 0
    out = capsys.readouterr().out
    assert "cpu_threads" in out and "hyper-threads would slow it" in out
    words = shlex.split(out.splitlines()[-1])
    program = next(i for i, word in enumerate(words) if "=" not in word)
    assert all(word.partition("=")[0].isupper() for word in words[:program])
    assert words[program + 1 : program + 3] == ["-m", "kt_cli.embedded"]
    assert "'my demo'" in out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["run"], 2, "MODEL is missing"),
        (["run", "nonesuch-model"], 3, "nonesuch-model"),
        (["run", "demo", "--gpu-experts", "8"], 2, "`--gpu-experts`"),
        (["run", "demo", "--name", "a/b"], 2, "cannot be a server's name"),
        (["run", "demo", "--host", "192.0.2.1", "--api-key", "k"], 2, "does not have that address"),
        (["run", "demo", "--host", "0.0.0.0"], 4, "--api-key auto"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_loaded(
    home: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: str
) -> None:
    assert app.run(argv) == code
    assert words in capsys.readouterr().err
    assert not (home / "models").exists()
