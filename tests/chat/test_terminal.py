"""`kt chat` in a real terminal."""

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pexpect
import pytest
from chat.raw_server import DONE, END, raw_server, text, thought, wait_until
from chat.screen import Screen
from chat.test_command import environment

PROMPT = "\n>"
CTRL_C, CTRL_D = "\x03", "\x04"
ALT_ENTER = "\x1b\r"
TORTURE = "[red]x[/red] [/b] [["
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b.")


class Terminal:
    def __init__(self, home: object, *argv: str, columns: int = 80, **env: str) -> None:
        settings = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "LANG": "C.UTF-8"}
        self.columns = columns
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "kt_cli", "chat", *argv],
            env={**environment(home), **settings, **env},
            dimensions=(24, columns),
            encoding="utf-8",
            timeout=10,
        )
        self.seen = ""
        self.mark = 0

    def ask(self, line: str) -> None:
        """Types a line at the next prompt."""
        self.until(PROMPT)
        self.send(line)

    def send(self, line: str) -> None:
        self.child.send(f"{line}\r")

    def until(self, wanted: str) -> str:
        """The plain text from the end of the last call up to `wanted`, once that has come."""
        end = time.monotonic() + 10
        while wanted not in self.plain()[self.mark :]:
            if time.monotonic() > end:
                raise TimeoutError(f"{wanted!r} is not in {self.plain()[self.mark :]!r}")
            with suppress(pexpect.TIMEOUT):
                self.seen += self.child.read_nonblocking(4096, timeout=0.2)
        start = self.mark
        self.mark = self.plain().index(wanted, start) + len(wanted)
        return self.plain()[start : self.mark]

    def plain(self) -> str:
        return CONTROL.sub("", self.seen)

    def screen(self) -> str:
        return Screen(self.columns, 24).feed(self.seen).text

    def leave(self) -> int:
        self.until(PROMPT)
        self.child.send(CTRL_D)
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


@contextmanager
def terminal(home: object, *argv: str, **options: object) -> Iterator[Terminal]:
    term = Terminal(home, *argv, **options)
    try:
        yield term
    finally:
        term.child.close(force=True)


@pytest.mark.parametrize("columns", [80, 40])
def test_a_conversation_with_markdown_code_and_brackets(tmp_path, columns):
    first = f"# Title\n\n{TORTURE}\n\n```python\nx = [1] # [/b]\n```\n\n- **one**\n- two\n"
    answers = [
        [part for char in first for part in (text(char), 0.001)] + [END, DONE],
        [text("second"), END, DONE],
    ]
    with (
        raw_server(answers=answers) as server,
        terminal(tmp_path, "--url", server.url, columns=columns) as term,
    ):
        term.ask("hello")
        term.until("tokens")
        shown = [line.strip() for line in term.screen().split("\n")]
        assert shown.count("Title") == 1
        assert shown.count(TORTURE) == 1
        assert shown.count("x = [1] # [/b]") == 1
        assert "• one" in shown
        term.ask("again")
        term.until("first token")
        assert term.leave() == 0
    assert [m["role"] for m in server.requests[1]["messages"]] == ["user", "assistant", "user"]


def test_ctrl_c_stops_the_answer_and_keeps_the_session(tmp_path):
    endless = [part for k in range(2000) for part in (text(f"w{k} "), 0.01)]
    answers = [endless, [text("fine"), END, DONE]]
    with (
        raw_server(answers=answers) as server,
        terminal(tmp_path, "--url", server.url) as term,
    ):
        term.ask("go on")
        term.until("w5")
        term.child.send(CTRL_C)
        term.until("stopped")
        wait_until(lambda: server.broken_pipes == 1)
        term.until(PROMPT)
        term.child.send(CTRL_C)
        term.until("Ctrl-D")
        term.ask("still there?")
        term.until("fine")
        assert term.leave() == 0
    sent = server.requests[1]["messages"]
    assert sent[1]["content"].startswith("w0 w1 w2 w3")
    assert sent[2]["content"] == "still there?"


def test_several_lines_by_alt_enter_quotes_and_paste(tmp_path):
    with raw_server() as server, terminal(tmp_path, "--url", server.url) as term:
        term.until(PROMPT)
        term.child.send(f"one{ALT_ENTER}two\r")
        term.until("first token")
        term.ask('"""')
        term.send("a")
        term.send("")
        term.send('b"""')
        term.until("first token")
        term.until(PROMPT)
        term.child.send("\x1b[200~x\ry\rz\x1b[201~")
        time.sleep(0.3)
        assert len(server.requests) == 2
        term.send("")
        term.until("first token")
        assert term.leave() == 0
    asked = [request["messages"][-1]["content"] for request in server.requests]
    assert asked == ["one\ntwo", "a\n\nb", "x\ny\nz"]


def test_commands_completion_and_history(tmp_path):
    with raw_server() as server:
        with terminal(tmp_path, "--url", server.url) as term:
            term.until(PROMPT)
            term.child.send("/sys\t")
            term.until("/system")
            term.send("be [brief]")
            term.until("be [brief]")
            term.ask("question one")
            term.until("first token")
            term.ask("/retry")
            term.until("first token")
            term.ask("/nonsense")
            term.until("no command")
            assert term.leave() == 0
        with terminal(tmp_path, "-c", "--url", server.url) as term:
            term.until("question one")
            term.until(PROMPT)
            term.child.send("\x1b[A\x1b[A\x1b[A\r")
            term.until("first token")
            assert term.leave() == 0
    assert len(server.requests) == 3
    assert server.requests[1]["messages"] == server.requests[0]["messages"]
    assert server.requests[2]["messages"][0] == {"role": "system", "content": "be [brief]"}
    assert server.requests[2]["messages"][-1]["content"] == "question one"


def test_reasoning_is_shown_and_a_lost_server_ends_nothing(tmp_path):
    answers = [[thought("let me [think]"), text("half")], [text("whole"), END, DONE]]
    with (
        raw_server(answers=answers) as server,
        terminal(tmp_path, "--url", server.url) as term,
    ):
        term.ask("q")
        seen = term.until("/retry")
        assert "let me [think]" in seen
        assert "lost in the middle" in seen
        term.ask("/retry")
        term.until("whole")
        assert term.leave() == 0


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_the_text_is_plain(tmp_path, variables):
    with (
        raw_server(answers=[[text("**bold** [/b]\n\n# head"), END, DONE]]) as server,
        terminal(tmp_path, "--url", server.url, **variables) as term,
    ):
        term.ask("hi")
        term.until("first token")
        assert "**bold** [/b]" in term.plain()
        assert "# head" in term.plain()
        assert term.leave() == 0


def test_no_server_is_said_before_the_first_prompt(tmp_path):
    with terminal(tmp_path, "--url", "http://127.0.0.1:9") as term:
        term.until("no server answers")
        term.child.expect(pexpect.EOF)
        term.child.close()
        assert term.child.exitstatus == 8


WORDS = [f"word{k}" for k in range(150)]
"""A paragraph of a dozen lines."""


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}], ids=["colours", "plain"])
@pytest.mark.parametrize("keys", [CTRL_C, "abc\r"], ids=["ctrl-c", "typing"])
def test_keys_during_an_answer_repeat_no_line_of_it(tmp_path, variables, keys):
    answer = [part for word in WORDS for part in (text(f"{word} "), 0.01)]
    ending = [60.0, END, DONE] if keys == CTRL_C else [0.3, text("\n\nlast"), END, DONE]
    with (
        raw_server(answers=[[*answer, *ending], [text("next"), END, DONE]]) as server,
        terminal(tmp_path, "--url", server.url, **variables) as term,
    ):
        term.ask("hi")
        term.until("word70")
        for key in keys:
            term.child.send(key)
            time.sleep(0.05)
        term.until("stopped" if keys == CTRL_C else "next")
        assert term.leave() == 0
        seen = term.screen()
    assert re.findall(r"word\d+", seen) == [w for w in WORDS if re.search(rf"\b{w}\b", seen)]


def test_a_single_answer_is_broken_between_words(tmp_path):
    answers = [[*(text(f"{word} ") for word in WORDS), END, DONE]]
    with (
        raw_server(answers=answers) as server,
        terminal(tmp_path, "--url", server.url, "hi") as term,
    ):
        term.child.expect(pexpect.EOF)
        term.seen = term.child.before
    assert Screen(80, 24).feed(term.seen).text.split() == WORDS


def test_a_terminal_is_left_as_it_was_when_the_program_is_ended(tmp_path):
    with (
        raw_server(answers=[[text("hello "), 60.0]]) as server,
        terminal(tmp_path, "--url", server.url) as term,
    ):
        term.ask("hi")
        term.until("hello")
        wait_until(lambda: not term.child.getecho())
        term.child.kill(signal.SIGTERM)
        wait_until(term.child.getecho)
        term.child.expect(pexpect.EOF)
        assert "\x1b[?25h" in term.child.before, "the cursor is shown again"
