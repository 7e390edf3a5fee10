"""Streamed text is broken between words, whatever the chunks, and code is not broken at all."""

import re

from chat.screen import Screen
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli.chat.wrap import Wrapper

WORDS = st.sampled_from(
    [
        "a",
        "words",
        "don\u2019t",
        "\u65e5\u672c\u8a9e",
        "x" * 30,
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "caf\u00e9",
        "- ",
        "\U0001f600",
    ]
)
TEXTS = st.lists(WORDS | st.text(max_size=4), max_size=60).map("".join)


def wrapped(text: str, size: int, width: int) -> str:
    wrapper = Wrapper(lambda: width)
    parts = [wrapper.feed(text[i : i + size]) for i in range(0, len(text), size)]
    return "".join([*parts, wrapper.finish()])


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 9), st.sampled_from([10, 20, 79]))
def test_only_spaces_and_line_ends_change(text, size, width):
    shown = wrapped(text, size, width)
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", text)
    assert shown.count("\n") >= text.count("\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("abc\u00e9\u2019", min_size=1, max_size=9), max_size=40), st.integers(1, 9))
def test_every_word_stands_whole_on_one_line(words, size):
    text = " ".join(words)
    screen = Screen(20).feed(wrapped(text, size, 20)).text
    assert screen.split() == words
    assert all(len(line) <= 20 for line in wrapped(text, size, 20).split("\n"))


def test_scripts_without_spaces_break_between_characters():
    text = "ok " + "\u65e5\u672c\u8a9e" * 20
    screen = Screen(20).feed(wrapped(text, 2, 20)).text
    assert screen.split("\n")[0] == "ok " + ("\u65e5\u672c\u8a9e" * 3)[:8]
    assert screen.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_code_stays_as_it_is():
    code = "```sh\n" + "echo one two three four five six\n" * 2 + "```\n"
    assert wrapped(code, 3, 20) == code
    indented = "    echo one two three four five six\n"
    assert wrapped(indented, 3, 20) == indented
    after = wrapped(code + "one two three four five six", 3, 20)
    assert after == code + "one two three four \nfive six"
