"""`kt run` with SGLang: who is started, what passes through, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from commands.sglang_stand_in import install, tiny_mixtral
from runtime.bench import free_port

from kt_cli import app, runtime
from kt_cli.workflow.records import outcomes


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    monkeypatch.delenv("KT_API_KEY", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture
def model(home: Path) -> str:
    return str(tiny_mixtral(home / "models" / "tiny"))


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = app.run(["run", *argv])
    return (code, *capsys.readouterr())


FORCED = ("--engine", "sglang", "--force")
"""No GPU is seen here."""


def test_without_sglang_the_error_says_where_it_was_looked_for(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, model, "--engine", "sglang")
    assert code == 6
    assert "SGLang is not installed" in err and "KT_HOME/engines" in err
    assert "--engine embedded" in err and "kt engine install sglang" in err


def test_without_a_gpu_an_installed_sglang_does_not_fit(
    home: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(home)
    code, _, err = run(capsys, model, "--engine", "sglang", "-p", str(free_port()))
    assert code == 5
    assert "needs an NVIDIA GPU" in err


def test_the_managed_interpreter_is_started_with_flags_of_the_user_last(
    home: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    python, port = install(home), str(free_port())
    extra = ("--log-level", "debug")
    code, out, err = run(capsys, model, *FORCED, "-d", "-p", port, "--name", "s", *extra)
    try:
        assert code == 0, err
        log = list(runtime.logs(home, "s"))
        assert log[0].startswith(f"started with --model-path {model} --served-model-name tiny")
        assert log[0].rstrip().endswith("--log-level debug")
        assert log[1].rstrip() == "path", "packages of kt's environment are not seen"
        assert runtime.find(home, "s").engine == "sglang"
        (outcome,) = outcomes(home)
        assert (outcome.engine, outcome.model) == ("sglang", "tiny")
        assert outcome.expected > 0 and outcome.resident > 1_000_000
    finally:
        runtime.stop(home, "s", now=True)
    code, out, _ = run(capsys, model, *FORCED, "--dry-run", "--json", "--log-level=debug")
    shown = json.loads(out)
    assert shown["argv"][0] == str(python)
    assert shown["argv"][-1] == "--log-level=debug"
    assert shown["plan"]["command"].endswith("--log-level=debug")


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("--no-such-thing", "1"), 2, "neither kt nor SGLang knows it"),
        (("--prot", "1"), 2, "did you mean `--port`"),
        (("stray",), 2, "one argument too many"),
        (("--kt-method", "AMXINT8"), 1, "the CPU experts are not there as AMXINT8"),
    ],
)
def test_what_sglang_would_refuse_is_refused_before(
    home: Path, model: str, capsys: pytest.CaptureFixture[str], argv: Any, code: int, words: str
) -> None:
    install(home)
    got, _, err = run(capsys, model, *FORCED, "--dry-run", *argv)
    assert (got, words in err) == (code, True), err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--log-level", "debug"), "no such option: --log-level"),
        (("--prot", "8000"), "did you mean `--port`"),
        (("stray",), "no such option: stray"),
        (("-ngl", "99"), "`--gpu-experts N`"),
        (("--n-gpu-layers", "99"), "flag of llama.cpp"),
        (("-ncmoe", "8"), "`--gpu-experts N`"),
        (("-ot", "exps=CPU"), "`--gpu-experts 0`"),
    ],
)
def test_the_embedded_engine_takes_no_foreign_flags(
    model: str, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], words: str
) -> None:
    code, _, err = run(capsys, model, "--engine", "embedded", "--dry-run", *argv)
    assert (code, words in err) == (2, True), err


def test_plan_answers_them_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["plan", "demo", "-ngl", "99"]) == 2
    assert "flag of llama.cpp" in capsys.readouterr().err


def test_flags_before_the_model_are_not_taken_for_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "--log-level=debug", "demo")
    assert (code, "MODEL is missing" in err) == (2, True), err


def test_a_server_is_served_although_its_outcome_cannot_be_kept(
    home: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(home)
    (home / "history").write_text("in the way")
    code, _, err = run(capsys, model, *FORCED, "-d", "-p", str(free_port()), "--name", "s")
    runtime.stop(home, "s", now=True)
    assert (code, "could not be written down" in err) == (0, True), err


def test_plan_shows_the_engines_command(
    home: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["plan", model, "--engine", "embedded", "--json"]) in (0, 5)
    plan = json.loads(capsys.readouterr().out)
    assert plan["run"] == f"kt run {model} --engine embedded"
    assert f"{sys.executable} -m kt_cli.embedded --model {model}" in plan["command"]
    argv = ["plan", "qwen3-30b", "--on", "4090+2x6454s"]
    assert app.run(argv) == 0
    assert "sglang.launch_server" not in capsys.readouterr().out
    assert app.run([*argv, "--explain"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "python -m sglang.launch_server --model-path " in last
    assert f"--kt-weight-path {home}/models/Qwen3-30B-A3B " in last
