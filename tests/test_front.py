"""The mouth: help, exit codes, JSON envelopes, refusals without a terminal."""

import json

import pytest

from kt_cli import commands
from kt_cli.app import run
from kt_cli.commands import summaries


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_command(capsys) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown for name in summaries())


TOY = """
from kt_cli.command import takes
from kt_cli.options import HubOptions

SUMMARY = "Say what hub is asked for"
cli = takes(HubOptions)(lambda options, ctx: ctx.out.result("toy", {"hub": options.hub}))
"""


def test_one_new_file_is_a_command(tmp_path, capsys, monkeypatch) -> None:
    before = list(summaries())
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "part.py").write_text("raise AssertionError")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    assert list(summaries()) == [*before, "toy"]
    assert run(["--help"]) == 0
    assert "  toy         Say what hub is asked for" in capsys.readouterr().out
    assert run(["toy", "--hub", "modelscope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hub"] == "modelscope"
    assert run(["toi"]) == 2
    assert "did you mean `kt toy`?" in capsys.readouterr().err


@pytest.mark.parametrize("name", summaries())
def test_every_command_explains_itself(name: str, capsys) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert (f"Usage: kt {name}" in shown and "--json" in shown) or "Commands:" in shown


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["frobnicate"], 2),
        (["config", "get", "no.such"], 3),
        (["config", "set", "server.port", "70000"], 2),
        (["config", "get"], 2),
        (["config", "get", "server.port", "--what"], 2),
        (["config", "reset", "--no-input"], 2),
    ],
)
def test_exit_codes(argv: list[str], code: int, capsys) -> None:
    assert run(argv) == code
    assert capsys.readouterr().err.startswith("error: ")
    assert run([*argv, "--json"]) == code
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "kt.error/1" and body["error"]["exit_code"] == code


@pytest.mark.parametrize("argv", [["--json", "config", "list"], ["config", "list", "--json"]])
def test_common_options_stand_before_or_after_the_command(argv: list[str], capsys) -> None:
    assert run(argv) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "kt.config/1"
    assert data["settings"]["server.port"] == {"value": 30000, "origin": "default"}


@pytest.mark.parametrize("argv", [[], ["model"], ["config"], ["profile"]], ids=str)
def test_without_a_command_the_help_is_shown(argv: list[str], capsys) -> None:
    assert run(argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(" ".join(["Usage: kt", *argv])) and "Commands:" in err
    assert "error:" not in err and "--install-completion" not in err


def test_a_typo_names_the_nearest_command(capsys) -> None:
    run(["confg"])
    assert "config" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_hook(shell: str, capsys) -> None:
    assert run(["completion", shell]) == 0
    assert "_KT_COMPLETE" in capsys.readouterr().out


def test_version_says_why_kernels_cannot_be_used(capsys, monkeypatch) -> None:
    monkeypatch.setenv("KT_ISA", "sparc")
    assert run(["version", "--check"]) == 0
    out = capsys.readouterr().out
    assert "kernels cannot be used: " in out  # unknown, or not built at all
    monkeypatch.delenv("KT_ISA")
    run(["version"])
    assert "sparc" not in capsys.readouterr().out


def test_version_is_kept_until_something_changes(tmp_path, capsys, monkeypatch) -> None:
    assert run(["version", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    cache = tmp_path / "cache" / "version.json"
    kept = json.loads(cache.read_text())
    kept["data"]["cuda"] = "99.9"
    cache.write_text(json.dumps(kept))
    run(["version", "--json"])
    assert json.loads(capsys.readouterr().out)["cuda"] == "99.9"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    run(["version", "--json"])
    assert json.loads(capsys.readouterr().out)["cuda"] == first["cuda"]
    cache.write_text("{")
    assert run(["version"]) == 0
