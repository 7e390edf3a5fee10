"""The parts of `kt run` before anything starts."""

from __future__ import annotations

import shlex

import pytest

from kt_cli.commands import run
from kt_cli.commands.attach import curl
from kt_cli.commands.planned import Planned
from kt_cli.commands.ps import span
from kt_cli.core.plan import Fix, Plan, Problem
from kt_cli.errors import AuthError, DoesNotFitError
from kt_cli.options import RunOptions


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


def planned(force: bool) -> Planned:
    ways = (Fix("shorter context", "saves 2 GB", "--ctx-size 4k"), Fix("buy memory", "helps"))
    problems = (Problem("note", "", "info"), Problem("too big", "needs 9 GB", fixes=ways))
    plan = Plan("m", "/m", "box", "embedded", (), (), problems)
    return Planned(plan, None, None, RunOptions(force=force))  # type: ignore[arg-type]


def test_a_plan_that_does_not_fit_stops_with_its_ways_out() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        run._require_fit(planned(force=False))
    error = caught.value
    assert (error.what, error.why, error.exit_code) == ("too big", "needs 9 GB", 5)
    assert "--ctx-size 4k, or buy memory, or --force" in error.fix


def test_force_starts_it_all_the_same() -> None:
    run._require_fit(planned(force=True))


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
