"""What a conversation is and what can be done to it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kt_cli.api_client.params import LIMITS, Params
from kt_cli.chat.session import Conversation, Message, Session, quote_file, wire_messages
from kt_cli.errors import UsageError


def talk(*turns: str) -> Session:
    session = Session()
    for number, turn in enumerate(turns):
        session.ask(turn) if number % 2 == 0 else session.answer(turn)
    return session


def test_messages_go_out_with_the_system_prompt_first():
    session = talk("a", "b", "c")
    session.change(system="S")
    assert wire_messages(session.conversation) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


def test_retry_takes_only_the_answer_back():
    session = talk("a", "b", "c", "d")
    assert session.retry()
    assert [m.content for m in session.messages] == ["a", "b", "c"]
    assert session.retry()
    assert [m.content for m in session.messages] == ["a", "b", "c"]
    assert not Session().retry()


def test_undo_takes_question_and_answer_back():
    session = talk("a", "b", "c", "d")
    assert session.undo() == "c"
    assert [m.content for m in session.messages] == ["a", "b"]
    assert session.undo() == "a"
    assert session.undo() == ""


def test_clear_keeps_the_system_prompt_and_the_parameters():
    session = talk("a", "b")
    session.change(system="S", params=Params(seed=1), model="m")
    session.attach("x.txt", "x")
    session.clear()
    conversation = session.conversation
    assert (conversation.messages, conversation.system) == ((), "S")
    assert (conversation.params.seed, conversation.model) == (1, "m")
    assert session.attachments == []


def test_reasoning_is_kept_but_not_sent():
    session = talk("a")
    session.answer("b", "because", stopped=True)
    assert session.messages[-1] == Message("assistant", "b", "because", stopped=True)
    assert wire_messages(session.conversation)[-1] == {"role": "assistant", "content": "b"}


def test_a_question_without_an_answer_joins_the_next():
    session = talk("a")
    session.answer("")
    session.ask("b")
    assert wire_messages(session.conversation) == [{"role": "user", "content": "a\n\nb"}]


def test_attachments_go_with_the_next_message_only():
    session = Session()
    session.attach("notes.md", "text")
    session.ask("what is it?")
    session.answer("x")
    session.ask("and now?")
    assert session.messages[0].content == "File `notes.md`:\n\n```\ntext\n```\n\nwhat is it?"
    assert session.messages[2].content == "and now?"


@given(st.text(alphabet="`a\n", max_size=30))
def test_a_quoted_file_cannot_break_its_fence(content):
    fence = quote_file("f", content).splitlines()[-1]
    assert fence not in content


def test_the_title_is_the_first_question_in_one_short_line():
    assert talk("one\n two").conversation.title == "one two"
    assert len(talk("word " * 40).conversation.title) == 60
    assert Conversation().title == ""


@given(st.lists(st.sampled_from(["ask", "answer", "empty", "retry", "undo"]), max_size=20))
def test_roles_always_alternate_on_the_wire(steps):
    session = Session(Conversation(system="S"))
    for step in steps:
        if step == "ask":
            session.ask("q")
        elif step in ("answer", "empty") and session.awaits_answer:
            session.answer("a" if step == "answer" else "")
        elif step == "retry":
            session.retry()
        elif step == "undo":
            session.undo()
    roles = [m["role"] for m in wire_messages(session.conversation)]
    assert all(a != b for a, b in itertools.pairwise(roles))
    assert roles[:2] in (["system"], ["system", "user"])


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("temperature", "0.5", 0.5), ("max-tokens", "12", 12), ("TOP_P", "1", 1.0)],
)
def test_parameters_are_read(name, text, value):
    assert value in Params().change(name, text).given().values()


@pytest.mark.parametrize(
    ("name", "text"),
    [("temperature", "3"), ("max_tokens", "1.5"), ("seed", "x"), ("warmth", "1"), ("top_p", "nan")],
)
def test_wrong_parameters_are_refused(name, text):
    with pytest.raises(UsageError):
        Params().change(name, text)


def test_default_gives_a_parameter_back_to_the_server():
    assert Params(seed=1).change("seed", "default") == Params()
    assert set(LIMITS) == set(Params().all())


def test_given_parameters_win_over_saved_ones():
    assert Params(seed=1).over(Params(seed=2, top_k=3)) == Params(seed=1, top_k=3)
