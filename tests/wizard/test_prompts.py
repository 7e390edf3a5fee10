"""Questions on real terminals: full ones with arrow keys, search and help; plain ones by lines."""

from __future__ import annotations

import sys
from pathlib import Path

import pexpect
import pytest
from wizard.test_session import environment

PROGRAM = """
from kt_cli.ui import Out
from kt_cli.ui.prompts import Choice, prompts
ask = prompts(Out())
models = [Choice(f"model-{i}", f"note {i}") for i in range(30)]
count = ask.text("How many?", "16", "a whole number", int)
model = ask.choose("Which one?", models, "model-3", "the models of this test")
print("answers:", count, model, ask.confirm("Really?"))
"""


@pytest.fixture(params=["xterm-256color", "xterm", "dumb"])
def child(request: pytest.FixtureRequest, tmp_path: Path) -> pexpect.spawn:
    variables = {**environment(tmp_path), "TERM": request.param}
    if request.param == "xterm-256color":
        del variables["NO_COLOR"]
    return pexpect.spawn(
        sys.executable, ["-c", PROGRAM], env=variables, encoding="utf-8", timeout=30,
        dimensions=(24, 80),
    )  # fmt: skip


def test_defaults_are_taken_by_enter(child: pexpect.spawn) -> None:
    for question in ("How many", "Which one", "Really"):
        child.expect(question)
        child.send("\r")
    child.expect("answers: None model-3 False")


def test_help_a_refused_answer_and_a_search(
    child: pexpect.spawn, request: pytest.FixtureRequest
) -> None:
    child.expect("How many")
    child.send("?\r")
    child.expect("a whole number")
    child.send("x\r")
    child.expect("invalid literal")
    plain = "dumb" in request.node.name
    child.send("4\r" if plain else "\x154\r")
    child.expect("Which one")
    child.send("?\r" if plain else "?")
    child.expect("the models of this test")
    child.expect("Which one")
    if plain:
        child.send("model-99\r")
        child.expect("a number from 1 to 30")
        child.send("22\r")
    else:
        child.send("l-21")
        child.expect("l-21...")
        child.send("\r")
    child.expect("Really")
    child.send("y\r" if plain else "y")
    child.expect("answers: 4 model-21 True")


def test_ctrl_c_leaves(child: pexpect.spawn) -> None:
    child.expect("How many")
    child.sendcontrol("c")
    child.expect("KeyboardInterrupt")


def test_a_group_without_a_command_offers_its_commands(tmp_path: Path) -> None:
    child = pexpect.spawn(
        sys.executable, ["-m", "kt_cli", "engine"], env=environment(tmp_path), cwd=str(tmp_path),
        encoding="utf-8", timeout=30, dimensions=(24, 80),
    )  # fmt: skip
    child.expect("kt engine:")
    child.expect("verify")
    child.send("\r")
    child.expect("not installed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
