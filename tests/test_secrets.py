"""No secret that enters `kt` leaves it: not in outputs, errors and tracebacks, nor in any file."""

import os
from pathlib import Path

import pytest

from kt_cli import environment
from kt_cli.app import run
from kt_cli.options import RunOptions
from kt_cli.opts import shown_argv
from kt_cli.workflow import profiles

SECRETS = {
    "KT_API_KEY": "kt-Sentinel-env-0123456789",
    "HF_TOKEN": "hf_SentinelToken0123456789",
    "MODELSCOPE_API_TOKEN": "ms-Sentinel-0123456789",
    "OPENAI_API_KEY": "sk-Sentinel-0123456789",
    "HTTPS_PROXY": "http://me:ProxySentinel0123@127.0.0.1:9",
    "HTTP_PROXY": "http://me:ProxySentinel0123@127.0.0.1:9",
    "HF_ENDPOINT": "http://me:HubSentinel0123@hub.invalid",
}
FLAG = 'kt-Sentinel-"flag\\-0123456789'
PLAIN = ("Sentinel",)
KEYED = ["--api-key", FLAG]
COMMANDS = [
    ["run", "demo", "--dry-run", *KEYED],
    ["run", "demo", "--dry-run", "--explain", f"--api-key={FLAG}"],
    ["run", "demo", "--dry-run", "--engine", "sglang", *KEYED],
    ["run", "demo", "--dry-run", "--host", "0.0.0.0"],
    ["run", "demo", "-p", "99999999", *KEYED],
    ["run", "demo", "--dry-run", "--port", "x", *KEYED],
    ["run", "nosuch", "--dry-run", *KEYED],
    ["run", *KEYED],
    ["run", "demo", "--kt-method", "AMXINT4", "--no-such-flag", *KEYED],
    ["run", "demo", "--dry-run", "--api-key", FLAG + "\n" + FLAG],
    ["run", "demo", "--name", "..", *KEYED],
    ["run", "--plan", "plan.json", "--dry-run", *KEYED],
    ["run", "--plan", "nosuch.json", *KEYED],
    ["plan", "demo", "--out", "plan.json", "--explain"],
    ["plan", "demo", "--out", "again.json", *KEYED],
    ["profile", "show", "p"],
    ["profile", "list"],
    ["run", "--profile", "p", "--dry-run", *KEYED],
    ["fit", "--gpu", "4090", "--ram", "64G"],
    ["chat", "hi", "--url", "http://127.0.0.1:9", *KEYED],
    ["chat", "hi", "--url", "http://far.invalid", *KEYED],
    ["chat", "hi", "--api-key", FLAG + " " + FLAG],
    ["model", "pull", "a/b"],
    ["model", "search", "x"],
    ["model", "pull", "a/b", "--hub", "modelscope"],
    ["model", "list"],
    ["config", "list"],
    ["config", "set", "server.port", "abc"],
    ["doctor", "--quick", "--online"],
    ["doctor", "--quick", "--save", "machine.toml"],
    ["ps", "-a"],
    ["version"],
]


def leaks(text: str) -> list[str]:
    return [line[:200] for line in text.splitlines() if any(word in line for word in PLAIN)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_PROXY", "no_proxy", "HF_HUB_OFFLINE", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("mode", [[], ["--json"], ["--debug"], ["--quiet"]], ids=str)
def test_no_command_shows_or_stores_a_secret(
    mode: list[str], place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    found = {}
    for argv in COMMANDS:
        line = [*argv, *mode, "--no-input"]
        monkeypatch.setattr("sys.argv", ["kt", *line])
        monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115
        run(line)
        said = capsys.readouterr()
        if leaked := leaks(said.out + said.err):
            found[" ".join(argv)] = leaked
    assert found == {}
    written = [path for path in place.rglob("*") if path.is_file()]
    assert len(written) > 2
    kept = {str(p): leaks(p.read_text(errors="replace")) for p in written}
    assert {name: leaked for name, leaked in kept.items() if leaked} == {}


def test_plans_hold_no_secret_even_where_nothing_is_hidden_by_the_output(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """The key is not in the data; that the output would replace it is a second wall."""
    monkeypatch.setattr(environment, "secrets", lambda *_: frozenset())
    for argv in (["run", "demo", "--dry-run", *KEYED], ["plan", "demo", *KEYED]):
        for mode in ([], ["--json"]):
            run([*argv, *mode])
            said = capsys.readouterr()
            assert leaks(said.out) == []


def test_secrets_of_the_environment_are_known_by_their_names() -> None:
    environ = {**SECRETS, "AWS_SECRET_ACCESS_KEY": "x" * 20, "MY_PASSWORD": "y" * 9,
               "MONKEY": "z" * 9, "KEYBOARD": "w" * 9, "SOME_KEY": "short"}  # fmt: skip
    known = environment.secrets(environ, ["kt", "--api-key", "f" * 9, f"--api-key={'g' * 9}"])
    assert {"x" * 20, "y" * 9, "f" * 9, "g" * 9, "ProxySentinel0123", "HubSentinel0123"} <= known
    assert not known & {"z" * 9, "w" * 9, "short"}


def test_a_profile_keeps_no_key(place: Path) -> None:
    path = profiles.save(place / "home", "p", RunOptions(model="demo", api_key=FLAG, port=31351))
    assert profiles.read(place / "home", "p") == RunOptions(model="demo", port=31351)
    assert leaks(path.read_text()) == []


def test_the_shown_command_has_no_key_but_auto() -> None:
    assert shown_argv(RunOptions(model="demo", api_key=FLAG)) == ["demo"]
    assert shown_argv(RunOptions(model="demo", api_key="auto")) == ["demo", "--api-key", "auto"]
