"""Any text in any chunks: plain is identical, a terminal shows it all and never breaks."""

import io
import itertools
import re

import pytest
from chat.screen import Screen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from kt_cli.chat.highlight import Highlighter
from kt_cli.chat.render import Plain, Rich, for_conversation
from kt_cli.ui import Out, visible

TORTURE = "[red]x[/red] [/b] [["
INLINE = ("[red]", "[/]", "[[", "**", "`", "<b>", "[x](y)", "\\(", "&amp;", "~~", "_", "word", " ")
LINES = (
    "```",
    "```py\n",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "> ",
    "| a |\n",
    "|---|\n",
    "# ",
    "[x]: y\n",
    "    ",
)
MARKS = st.sampled_from([*INLINE, *LINES])
TEXTS = st.lists(MARKS | st.text(max_size=5), max_size=30).map("".join)


def chunks(text: str, size: int) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def output(parts: list[str], width: int = 80, height: int = 20) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        height=height,
        force_terminal=True,
        color_system="standard",
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    with Rich(console, frame_s=0) as renderer:
        for part in parts:
            renderer.text(part)
    return stream.getvalue()


def shown(parts: list[str], width: int = 80) -> str:
    return Screen(width).feed(output(parts, width)).text


@settings(max_examples=300)
@given(st.lists(st.text()))
def test_plain_is_the_text_to_the_byte(parts):
    stream = io.StringIO(newline="")
    with Plain(stream.write) as renderer:
        for part in parts:
            renderer.text(part)
    text = "".join(parts)
    assert stream.getvalue() == (text if text.endswith("\n") or not text else f"{text}\n")


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_brackets_are_printed_as_they_are(width, size):
    assert TORTURE in shown(chunks(f"{TORTURE}\n\nnext", size), width)
    code = shown(chunks(f"```python\n{TORTURE}\n```\n", size), width)
    assert TORTURE in code


@pytest.mark.parametrize(
    "text",
    [
        "see [the page](http://x.y/a_b) now",
        "[ref]: http://hidden.example",
        "![picture](file.png)",
        "<b>bold</b> and <!-- comment -->",
        "<div>\nblock\n</div>",
        "<http://auto.link>",
        "&amp; &lt; &#65;",
        r"math \( a_1 + b_2 \) and \[ x \]",
        "- [ ] task [x]",
        "Title\n---",
        "|a",
    ],
)
def test_nothing_a_model_wrote_vanishes(text):
    plain = re.sub(r"[\s•─-]", "", shown([text], 60))
    assert plain == re.sub(r"[\s•─-]", "", text)


def test_lines_stay_lines_and_markdown_is_laid_out():
    lines = shown(["# Head\n\nfirst\nsecond **bold** `code`\n\n1. one\n\n2. two\n"]).split("\n")
    assert [line.strip() for line in lines if line] == [
        "Head",
        "first",
        "second bold code",
        "1 one",
        "2 two",
    ]


def test_blocks_are_parted_by_one_blank_line():
    text = "a\n\n| x |\n|---|\n| y |\n\n```\nc\n```\n\nb\n"
    lines = shown(chunks(text, 4)).rstrip().split("\n")
    assert "" not in (lines[0], lines[-1])
    assert not any(a == b == "" for a, b in itertools.pairwise(lines))


def test_a_long_line_of_code_is_not_cut():
    line = "x = " + " + ".join(f"[{k}]" for k in range(60))
    joined = shown(chunks(f"```python\n{line}\n```", 7), 40).replace("\n", "")
    assert line.replace(" ", "") in joined.replace(" ", "")


def test_an_answer_longer_than_the_screen_is_whole():
    text = "\n".join(f"line {k}" for k in range(100))
    lines = shown(chunks(text, 11)).split("\n")
    assert [line for line in lines if line] == text.split("\n")


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.integers(1, 7), st.sampled_from([20, 40, 80]))
@example("> " * 200 + "x", 7, 40)
@example("- " * 200 + "x", 7, 40)
@example("[" * 500, 7, 40)
@example("*" * 500, 7, 40)
@example("| a |\n|---|\n| [b", 3, 20)
@example("```nosuchlanguage\n\t\x1b[2J\n", 3, 20)
@example("\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace"), 1, 20)
def test_any_text_is_shown_without_an_exception(text, size, width):
    result = output(chunks(text, size), width)
    for word in re.findall(r"[a-z]{4}", text):
        assert word[0] in result


@given(st.text(), st.integers(1, 5))
def test_control_characters_become_visible_in_any_chunking(text, size):
    clean = visible(text)
    assert clean == "".join(visible(part) for part in chunks(text, size))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", clean)


def test_a_model_cannot_steer_the_terminal():
    assert "\x1b]0;" not in output(["\x1b]0;title\x07 \x1b[2J"])
    stream = io.StringIO()
    with Plain(stream.write, terminal=True) as renderer:
        renderer.text("\x1b[31mred")
    assert stream.getvalue() == "␛[31mred\n"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_a_terminal_gets_plain_text(variables, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    assert isinstance(for_conversation(Out(stdout=Terminal())), Rich)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert isinstance(for_conversation(Out(stdout=Terminal())), Plain)


def test_reasoning_is_dimmed_and_parted_from_the_answer():
    stream = io.StringIO()
    with Rich(Console(file=stream, force_terminal=True, color_system="standard")) as renderer:
        renderer.reasoning("let me [see]")
        renderer.text("answer")
    assert "\x1b[2;3mlet me \x1b[0m" in stream.getvalue()
    assert Screen().feed(stream.getvalue()).text.split("\n")[:3] == ["let me [see]", "", "answer"]


def test_plain_reasoning_is_marked_where_it_is_wanted():
    for thoughts, wanted in ((True, "(thinking) hm\n\nyes\n"), (False, "yes\n")):
        stream = io.StringIO()
        with Plain(stream.write, thoughts=thoughts) as renderer:
            renderer.reasoning("hm")
            renderer.text("yes")
        assert stream.getvalue() == wanted


@given(st.lists(st.text(alphabet="a\"'#\\ \t(", max_size=8), max_size=8))
def test_a_highlighted_line_is_the_line(lines):
    highlighter = Highlighter("python")
    assert [highlighter.line(line).plain for line in lines] == lines
