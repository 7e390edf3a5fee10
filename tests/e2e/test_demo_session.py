"""A first session with the demo model, as a new user types it; the tests run in this order."""

from __future__ import annotations

import json
import os
import signal
import time

import pexpect
import pytest
from e2e.conftest import Terminal
from openai import AuthenticationError, OpenAI

from kt_cli import runtime

PROMPT = "\x1b\\[0m>"
ENGLISH = {"the", "of", "is", "a", "in", "and", "to", "that", "it", "are", "with", "from", "by"}


def client(port: int) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def ask(port: int, *messages: str, stream: bool = False, **fields: object) -> object:
    roles = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": t}
        for i, t in enumerate(messages)
    ]
    create = client(port).chat.completions.create
    return create(model="demo", messages=roles, stream=stream, temperature=0, **fields)  # type: ignore[call-overload]


def test_run_detached_returns_when_the_demo_is_ready(terminal: Terminal, port: int) -> None:
    shown = terminal.says("run", "demo", "-d", "--port", str(port))
    assert f"demo is ready at http://127.0.0.1:{port}/v1" in shown
    assert "kt chat" in shown and "kt stop demo" in shown


def test_ps_lists_it(terminal: Terminal, port: int) -> None:
    shown = terminal.says("ps")
    assert "demo" in shown and "ready" in shown and str(port) in shown
    (server,) = json.loads(terminal.says("ps", "--json"))["servers"]
    assert server["model"] == "demo" and server["memory"] > 500_000_000
    assert server["load"]["running"] == 0


def test_three_turns_of_chat_make_sense(terminal: Terminal) -> None:
    child = terminal.kt("chat", "--temperature", "0", "--no-save", "--max-tokens", "60", timeout=60)
    questions = ("Write about the sea.", "Tell me about dogs.", "What is the capital of France?")
    answers = [_turn(child, question) for question in questions]
    assert "Paris" in answers[2]
    assert all(map(_is_english, questions[:2], answers)), answers
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def _is_english(question: str, answer: str) -> bool:
    """The terminal echoes the question, so its words prove nothing."""
    common = ENGLISH - set(question.lower().split())
    return len(common & set(answer.lower().split())) >= 2


def _turn(child: pexpect.spawn, question: str) -> str:
    """What comes between the question and the line with the speed."""
    child.expect(PROMPT)
    child.send(question + "\r")
    child.expect("tokens/s")
    return str(child.before)


def test_a_prompt_on_the_command_line_is_answered_plainly(terminal: Terminal) -> None:
    shown = terminal.says("chat", "--temperature", "0", "What is the capital of France?")
    assert "Paris" in shown


def test_the_openai_client_streams(port: int) -> None:
    chunks = list(ask(port, "What is the capital of France?", stream=True, max_tokens=30))  # type: ignore[call-overload]
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert len([p for p in pieces if p]) > 3
    assert "Paris" in "".join(pieces)


def test_the_log_follows_and_the_busy_port_is_named(terminal: Terminal, port: int) -> None:
    assert "kt-engine ready" in terminal.says("logs")
    shown = terminal.says("run", "demo", "--name", "other", "--port", str(port), code=2)
    assert "port" in shown and "kt stop demo" in shown
    assert "running already" in terminal.says("run", "demo", code=2)


def test_a_killed_engine_is_reported_within_two_seconds(terminal: Terminal) -> None:
    server = runtime.find(terminal.home, "demo")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    began = time.monotonic()
    while runtime.find(terminal.home, "demo").state != "failed":
        assert time.monotonic() - began < 2
        time.sleep(0.01)
    shown = terminal.says("ps")
    assert "failed" in shown and "SIGKILL" in shown


def test_stop_leaves_nothing(terminal: Terminal, port: int) -> None:
    terminal.says("run", "demo", "-d", "--port", str(port))
    assert "demo is stopped" in terminal.says("stop")
    assert terminal.processes() == []
    assert "no server is running" in terminal.says("ps")


def test_ctrl_c_in_the_foreground_leaves_no_process(terminal: Terminal, port: int) -> None:
    child = terminal.kt("run", "demo", "--port", str(port), "--api-key", "auto")
    child.expect(r"key +(kt-\S+)")
    key = child.match.group(1)
    child.expect("kt stop demo")
    with pytest.raises(AuthenticationError):
        client(port).models.list()
    authorised = client(port).with_options(api_key=key)
    assert [m.id for m in authorised.models.list()] == ["demo"]
    child.sendintr()
    child.expect("demo is stopped")
    child.wait()
    assert child.exitstatus == 0
    assert terminal.processes() == []


def test_ctrl_c_while_loading_leaves_no_process(terminal: Terminal, port: int) -> None:
    child = terminal.kt("run", "demo", "--port", str(port))
    child.expect("starting|loading|building")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert terminal.processes() == []


def test_dry_run_starts_nothing(terminal: Terminal) -> None:
    shown = terminal.says("run", "demo", "--dry-run", "--explain")
    assert "-m kt_cli.embedded" in shown and "cpu_threads" in shown
    assert runtime.find(terminal.home, "demo").state == "stopped"


def test_what_cannot_be_done_says_so(terminal: Terminal, port: int) -> None:
    shown = terminal.says("run", "demo", "--tp", "2", code=2)
    assert "`--tp`" in shown and "SGLang" in shown
    shown = terminal.says("run", "demo", "--host", "0.0.0.0", "--port", str(port), code=4)
    assert "--api-key auto" in shown
