"""Whatever comes from outside reaches no terminal as a command to it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import HOSTILE, STEERING, steering
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.text import Text

from kt_cli import probe
from kt_cli.app import run
from kt_cli.core.events import Failed
from kt_cli.errors import KtError
from kt_cli.probe import toml
from kt_cli.runtime.procs import Process
from kt_cli.runtime.register import Folder, Server, write_state
from kt_cli.ui import Out, Painted, one_line, table, visible
from kt_cli.ui.progress import progress
from kt_cli.ui.prompts import Choice, PlainPrompts


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def everything(out: Out) -> None:
    """Each way in which a text gets out."""
    error = KtError(HOSTILE, HOSTILE, HOSTILE)
    out.result("thing", {"name": HOSTILE}, HOSTILE, Text(HOSTILE), Painted(((HOSTILE, "31"),)))
    out.result("thing", {HOSTILE: HOSTILE})
    out.print(table(["a"], [[HOSTILE]], HOSTILE), Panel(HOSTILE, title=HOSTILE))
    for say in (out.note, out.hint, out.warn, out.prompt):
        say(HOSTILE)
    out.event("thing", {"name": HOSTILE}, HOSTILE)
    out.error(error)
    out.trace(error)
    out.console().print(HOSTILE)
    asker = PlainPrompts(out, io.StringIO("?\n1\n\n?\n\n"))
    asker.choose(HOSTILE, [Choice(HOSTILE, HOSTILE)], HOSTILE, HOSTILE)
    asker.confirm(HOSTILE)
    asker.text(HOSTILE, HOSTILE, HOSTILE, str)
    with progress(out, HOSTILE) as show:
        show(HOSTILE, 0.5)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO], ids=["terminal", "pipe"])
@pytest.mark.parametrize("json_mode", [False, True], ids=["human", "json"])
def test_no_way_out_passes_a_command(
    stream: Callable[[], io.StringIO], json_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stdout, stderr = stream(), stream()
    everything(Out(json_mode=json_mode, stdout=stdout, stderr=stderr, interactive=True))
    assert steering(stdout.getvalue() + stderr.getvalue()) == ""
    assert "cHduZWQ=" in stdout.getvalue()


def test_an_answer_is_gated_on_a_terminal_and_data_in_a_pipe() -> None:
    for stream, wanted in ((Terminal(), visible(HOSTILE)), (io.StringIO(), HOSTILE)):
        out = Out(stdout=stream, stderr=io.StringIO(), interactive=False)
        for character in HOSTILE:
            out.stream(character)
        assert stream.getvalue() == wanted


@given(st.text() | st.text(alphabet=st.sampled_from(HOSTILE)))
def test_nothing_but_line_ends_and_tabs_is_left(text: str) -> None:
    assert not STEERING.search(visible(text))
    assert visible(visible(text)) == visible(text)
    assert "\n" not in one_line(text) and not STEERING.search(one_line(text))


@given(st.text() | st.text(alphabet=st.sampled_from(HOSTILE)))
def test_json_keeps_every_character(text: str) -> None:
    stdout = io.StringIO()
    Out(json_mode=True, stdout=stdout, interactive=False).event("e", {"text": text})
    assert json.loads(stdout.getvalue())["text"] == text
    assert not STEERING.search(stdout.getvalue())


def test_a_message_of_several_lines_poses_as_no_other() -> None:
    stderr = io.StringIO()
    Out(stderr=stderr, interactive=False).error(KtError("a\nerror: b", "c\n  fix: rm -rf /", ""))
    starts = [line[:7] for line in stderr.getvalue().splitlines()]
    assert starts == ["error: ", " " * 7, "  why: ", " " * 7]


NAMED = HOSTILE.replace("\0", "").replace("/", "")
"""What can be an argument and a file's name."""


def server(home: Path) -> None:
    failure = Failed(HOSTILE, HOSTILE, HOSTILE, log_tail=(HOSTILE,))
    gone = Process(1, 1, "another boot")
    folder = Folder(home, "demo")
    folder.path.mkdir(parents=True)
    known = Server("demo", HOSTILE, HOSTILE, HOSTILE, "failed", 1.0, gone, failure=failure)
    write_state(folder, known)
    folder.log.write_text(f"x {HOSTILE}\n", encoding="utf-8")


def plan(path: str) -> None:
    """A real plan whose words are hostile."""
    assert run(["plan", "demo", "--out", path, "--quiet"]) == 0
    data = json.loads(Path(path).read_text())
    data["model"] = data["machine"] = HOSTILE
    for decision in data["decisions"]:
        decision["why"] = HOSTILE
    data["problems"] = [{"severity": "warning", "what": HOSTILE, "why": HOSTILE, "fixes": []}]
    Path(path).write_text(json.dumps(data))


def files(home: Path) -> None:
    server(home)
    named = Path("m" + NAMED)
    named.mkdir()
    (named / "config.json").write_text(json.dumps({"model_type": HOSTILE}))
    Path("model").mkdir()
    (Path("model") / "config.json").write_text(
        json.dumps({"model_type": HOSTILE, "architectures": [HOSTILE], "hidden_size": HOSTILE})
    )
    escaped = json.dumps(HOSTILE)  # as TOML escapes it, too
    found = probe.machine()
    odd = replace(found, name=HOSTILE, problems=(HOSTILE,), cpu=replace(found.cpu, model=HOSTILE))
    Path("machine.toml").write_text(toml.dump(odd), encoding="utf-8")
    plan("plan.json")
    Path("wrong.json").write_text(json.dumps({"schema": HOSTILE, "model": HOSTILE}))
    Path("broken.json").write_bytes(HOSTILE.encode() + b"\xff")
    (home / "profiles").mkdir()
    (home / "profiles" / "p.toml").write_text(f"model = {escaped}\n{escaped} = 1\n")
    Path("settings").mkdir()
    Path("settings", "kt.toml").write_text(f"{escaped} = 1\n")


def command_lines() -> list[list[str]]:
    named = "m" + NAMED
    return [
        ["ps", "-a"], ["logs", "demo"], ["stop", NAMED], ["top", "--once"], [NAMED],
        ["plan", NAMED], ["plan", named], ["plan", "./model"], ["plan", "demo", "--on", NAMED],
        ["plan", "demo", "--on", "machine.toml"],
        ["run", "--plan", "plan.json", "--dry-run", "--explain"],
        ["run", "--plan", "wrong.json"],
        ["run", "--plan", "broken.json", "--dry-run"], ["run", "demo", "--name", NAMED],
        ["run", "demo", "--dry-run", "--served-model-name", NAMED], ["run", "demo", NAMED],
        ["profile", "list"], ["profile", "show", "p"], ["run", "--profile", "p", "--dry-run"],
        ["run", "--profile", NAMED, "--dry-run"], ["config", "set", NAMED, NAMED],
        ["config", "set", "server.port", NAMED], ["config", "get", NAMED],
        ["model", "add", named], ["model", "add", "model", "--name", NAMED], ["model", "list"],
        ["model", "verify", NAMED], ["model", "rm", NAMED, "--yes"], ["model", "pull", NAMED],
        ["chat", "hi", "--url", NAMED], ["chat", "hi", "-f", NAMED], ["fit", "--gpu", NAMED],
        ["fit", "--ram", NAMED], ["plan", "demo", "--explain", "--served-model-name", NAMED],
    ]  # fmt: skip


@pytest.mark.parametrize("mode", [[], ["--json"], ["--debug"]], ids=["human", "json", "debug"])
def test_no_command_passes_on_what_a_file_or_a_name_brings(
    mode: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("KT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    files(home)
    leaks = {}
    for argv in command_lines():
        assert isinstance(run([*argv, *mode]), int)
        caught = capsys.readouterr()
        assert "no server is running" not in caught.out or argv[0] == "top"
        if found := steering(caught.out + caught.err):
            leaks[" ".join(argv)] = found
    monkeypatch.chdir(tmp_path / "settings")
    run(["config", "list", *mode])
    caught = capsys.readouterr()
    assert steering(caught.out + caught.err) == ""
    assert not leaks
