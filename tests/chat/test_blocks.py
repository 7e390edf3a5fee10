"""Streamed Markdown is cut where no later text can change what came before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.chat.blocks import Block, Blocks, CodeEnd, CodeLine, CodeStart

MARKS = [
    "a",
    "b c",
    "- ",
    "1. ",
    "```",
    "~~~",
    "````",
    "\n",
    "\n\n",
    "  ",
    "    ",
    "> ",
    "| ",
    "# ",
]


def cut(text: str) -> list[object]:
    blocks = Blocks()
    return blocks.feed(text) + blocks.finish()


def test_a_paragraph_ends_at_the_blank_line():
    blocks = Blocks()
    assert blocks.feed("one\ntwo\n\n") == []
    assert blocks.feed("three") == []
    assert blocks.feed("\n") == [Block("one\ntwo")]
    assert blocks.tail == "three\n"
    assert blocks.finish() == [Block("three")]


def test_code_comes_line_by_line():
    blocks = Blocks()
    assert blocks.feed("say:\n```py") == []
    assert blocks.feed("thon\nx = 1\ny") == [
        Block("say:"),
        CodeStart("```", "python"),
        CodeLine("x = 1"),
    ]
    assert (blocks.tail, blocks.in_code) == ("y", True)
    assert blocks.feed("\n\n```\n") == [CodeLine("y"), CodeLine(""), CodeEnd("```")]


def test_a_list_goes_on_over_blank_lines():
    text = "1. a\n\n   more\n\n2. b\n\nend"
    assert cut(text) == [Block("1. a\n\n   more\n\n2. b"), Block("end")]


def test_code_in_a_list_stays_in_the_list():
    text = "- a\n  ```\n  x\n\n  y\n  ```\n\nend"
    assert cut(text) == [Block("- a\n  ```\n  x\n\n  y\n  ```"), Block("end")]


def test_a_longer_fence_holds_a_shorter_one():
    assert cut("````md\n```\nx\n```\n````\n") == [
        CodeStart("````", "md"),
        CodeLine("```"),
        CodeLine("x"),
        CodeLine("```"),
        CodeEnd("````"),
    ]


def test_an_answer_may_end_inside_code():
    assert cut("```\nx") == [CodeStart("```", ""), CodeLine("x"), CodeEnd("")]


@pytest.mark.parametrize("text", ["``` not ` a fence", "[red]x[/red] [/b] [["])
def test_what_is_no_code_is_text(text):
    assert cut(text) == [Block(text)]


def visible_lines(parts: list[object]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Block):
            lines += part.text.split("\n")
        elif isinstance(part, CodeLine):
            lines.append(part.text)
        elif isinstance(part, CodeStart):
            lines.append(part.fence + part.language)
        else:
            lines.append(part.fence)
    return [line.replace(" ", "") for line in lines if line.strip()]


@given(st.lists(st.sampled_from(MARKS), max_size=40), st.integers(1, 5))
def test_no_line_is_lost_and_chunks_do_not_matter(marks, size):
    text = "".join(marks)
    blocks = Blocks()
    parts = [p for i in range(0, len(text), size) for p in blocks.feed(text[i : i + size])]
    parts += blocks.finish()
    assert parts == cut(text)
    wanted = [line.replace(" ", "") for line in text.split("\n") if line.strip()]
    assert visible_lines(parts) == wanted
