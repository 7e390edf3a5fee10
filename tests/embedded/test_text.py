"""Text comes out in whole characters, complete, and never with a part of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.embedded.text import Detokenizer, StopFilter


def decode(ids):
    """A tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(detokenizer, ids):
    return [detokenizer.push(token) for token in ids]


def test_a_character_of_several_tokens_comes_out_once_and_whole():
    ids = list("aé€😀z".encode())
    assert pieces(Detokenizer(decode), ids) == ["a", "", "é", "", "", "€", "", "", "", "😀", "z"]


def test_bytes_that_are_no_character_do_not_hold_back_for_ever():
    detokenizer = Detokenizer(decode)
    assert "".join(pieces(detokenizer, [0xFF] * 6 + list(b"ab"))).endswith("ab")


def test_an_unfinished_character_at_the_end_is_left_out():
    detokenizer = Detokenizer(decode)
    got = pieces(detokenizer, b"ok" + "€".encode()[:2])
    assert "".join(got) + detokenizer.rest() == "ok"


def test_the_space_before_a_first_word_survives():
    """Some tokenizers drop a leading space at the beginning of what they decode."""
    words = {1: " Hello", 2: " world", 3: "!"}

    def strip(ids):
        return "".join(words[i] for i in ids).removeprefix(" ")

    assert pieces(Detokenizer(strip, [1]), [2, 3]) == [" world", "!"]


@given(st.text(max_size=60), st.text(max_size=10))
def test_the_pieces_are_the_whole_text(text, prompt):
    detokenizer = Detokenizer(decode, list(prompt.encode()))
    got = pieces(detokenizer, text.encode())
    assert "".join(got) + detokenizer.rest() == text.rstrip("�")[: len(text)] or "�" in text
    assert all("�" not in piece for piece in got) or "�" in text


@pytest.mark.parametrize(
    ("parts", "expected", "stopped"),
    [
        (["abc", "def"], "abcdef", False),
        (["ab", "ST", "OP", "cd"], "ab", True),
        (["abS", "TxSTOP"], "abSTx", True),
        (["abSTO"], "abSTO", False),
        (["STOP"], "", True),
    ],
)
def test_stop_strings_end_the_text_even_when_split(parts, expected, stopped):
    stops, text, found = StopFilter(["STOP"]), "", False
    for part in parts:
        cut = stops.push(part)
        text, found = text + cut.text, cut.stopped
        if found:
            break
    assert (text + ("" if found else stops.rest()), found) == (expected, stopped)


@given(
    st.text("abc", max_size=40),
    st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), min_size=1),
)
def test_nothing_of_a_stop_string_leaks(text, stops, steps):
    found = [(text.find(s), s) for s in stops if s in text]
    filtered, out, at, turn = StopFilter(stops), "", 0, 0
    stopped = False
    while at < len(text) and not stopped:
        step = steps[turn % len(steps)]
        cut = filtered.push(text[at : at + step])
        out, stopped, at, turn = out + cut.text, cut.stopped, at + step, turn + 1
        if not stopped:
            assert not any(s in out for s in stops)
    if not stopped:
        out += filtered.rest()
    assert stopped == bool(found)
    if found:
        # The first to be complete wins; one that starts earlier may still be incomplete then.
        assert text.startswith(out) and not any(s in out for s in stops)
    else:
        assert out == text
