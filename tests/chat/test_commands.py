"""The slash commands, without a terminal."""

import io
from collections.abc import Iterator

import pytest
from chat.raw_server import DONE, END, Raw, raw_server, text

from kt_cli.api_client.client import Client
from kt_cli.chat import commands
from kt_cli.chat.chat import Chat, Leave
from kt_cli.chat.loop import converse, handle
from kt_cli.chat.prompt import is_open, unquote
from kt_cli.chat.render import Plain
from kt_cli.chat.session import Session
from kt_cli.chat.store import Store
from kt_cli.errors import KtError, NotFoundError, UsageError
from kt_cli.ui import Out


@pytest.fixture
def server() -> Iterator[Raw]:
    answers = [[text(f"answer {k}"), END, DONE] for k in range(1, 6)]
    with raw_server(answers=answers, models=["raw", "other"]) as raw:
        yield raw


@pytest.fixture
def chat(server, tmp_path) -> Chat:
    out = Out(stdout=io.StringIO(), stderr=io.StringIO())
    session = Session()
    session.change(model="raw")
    client = Client(server.url)
    return Chat(client, session, Store(tmp_path), out, lambda: Plain(out.stream))


def said(chat: Chat) -> str:
    return chat.out.stderr.getvalue()


def contents(chat: Chat) -> list[str]:
    return [m.content for m in chat.session.messages]


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("/help", ("help", "")),
        ("/system be  brief\nplease", ("system", "be  brief\nplease")),
        (" /exit ", ("exit", "")),
        ("/usr/bin is a folder", None),
        ("//x", None),
        ("hello /help", None),
        ("", None),
    ],
)
def test_what_is_a_command(line, parsed):
    assert commands.parse(line) == parsed


def test_an_unknown_command_is_not_sent(chat, server):
    with pytest.raises(UsageError, match="/hlp") as caught:
        handle(chat, "/hlp")
    assert "/help" in caught.value.fix
    assert server.requests == []


def test_retry_asks_the_server_again(chat, server):
    handle(chat, "question")
    handle(chat, "/retry")
    assert contents(chat) == ["question", "answer 2"]
    assert server.requests[0]["messages"] == server.requests[1]["messages"]
    assert chat.store.latest().conversation.messages == chat.session.messages


def test_clear_keeps_the_system_prompt(chat, server):
    handle(chat, "/system be brief")
    handle(chat, "one")
    handle(chat, "/clear")
    handle(chat, "two")
    assert server.requests[1]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "two"},
    ]
    assert len(chat.store.names()) == 2
    handle(chat, "/system off")
    assert chat.session.conversation.system == ""


def test_undo(chat):
    handle(chat, "one")
    handle(chat, "two")
    handle(chat, "/undo")
    assert contents(chat) == ["one", "answer 1"]
    assert len(chat.store.latest().conversation.messages) == 2


def test_save_load_and_list(chat):
    handle(chat, "one")
    handle(chat, "/save first")
    assert chat.store.names() == ["first"]
    handle(chat, "/clear")
    handle(chat, "two")
    handle(chat, "/list")
    assert "first" in chat.out.stdout.getvalue()
    handle(chat, "/load fir")
    assert contents(chat) == ["one", "answer 1"]
    handle(chat, "three")
    assert len(chat.store.load("first").conversation.messages) == 4


def test_a_loaded_conversation_uses_a_model_that_is_there(chat):
    handle(chat, "one")
    chat.session.change(model="gone")
    handle(chat, "/save x")
    chat.session.change(model="raw")
    handle(chat, "/load x")
    assert chat.session.conversation.model == "raw"


def test_model_is_chosen_among_those_of_the_server(chat, server):
    handle(chat, "/model other")
    handle(chat, "hi")
    assert server.requests[0]["model"] == "other"
    with pytest.raises(NotFoundError, match="nope"):
        handle(chat, "/model nope")
    assert "* other" in said(chat)


def test_params_reach_the_server(chat, server):
    handle(chat, "/params temperature 0.25")
    handle(chat, "/params max_tokens=9")
    handle(chat, "hi")
    handle(chat, "/params temperature default")
    handle(chat, "hi")
    assert server.requests[0]["temperature"] == 0.25
    assert server.requests[0]["max_tokens"] == 9
    assert "temperature" not in server.requests[1]
    with pytest.raises(UsageError):
        handle(chat, "/params temperature")


def test_a_file_goes_with_the_next_message(chat, server, tmp_path):
    file = tmp_path / "my notes.txt"
    file.write_text("[red]facts[/red]")
    handle(chat, f"/file '{file}'")
    handle(chat, "sum up")
    sent = server.requests[0]["messages"][0]["content"]
    assert "[red]facts[/red]" in sent
    assert sent.endswith("sum up")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a\0b"])
def test_a_binary_file_is_refused(chat, tmp_path, content):
    file = tmp_path / "x.bin"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="not a text file"):
        handle(chat, f"/file {file}")
    with pytest.raises(NotFoundError):
        handle(chat, "/file /nowhere")


def test_stats_and_help(chat):
    handle(chat, "/stats")
    handle(chat, "hi")
    handle(chat, "/stats")
    handle(chat, "/help")
    assert "no answer yet" in said(chat)
    assert "counted chunks" in said(chat)
    assert all(command.usage in said(chat) for command in commands.COMMANDS.values())


@pytest.mark.parametrize("line", ["/retry", "/undo", "/save", "/load", "/file"])
def test_commands_that_have_nothing_to_do_say_so(chat, line):
    with pytest.raises(UsageError):
        handle(chat, line)


def test_exit_leaves(chat):
    with pytest.raises(Leave):
        handle(chat, "/exit")


def test_completion(chat, tmp_path):
    (tmp_path / "data.txt").touch()
    handle(chat, "hi")
    handle(chat, "/save one")
    assert commands.complete(chat, "/sa") == ["/save "]
    assert commands.complete(chat, "/s") == ["/system ", "/save ", "/stats"]
    assert commands.complete(chat, "/load o") == ["one"]
    assert commands.complete(chat, "/model o") == ["other"]
    assert commands.complete(chat, "/params te") == ["temperature"]
    assert commands.complete(chat, f"/file {tmp_path}/da") == [f"{tmp_path}/data.txt"]
    assert commands.complete(chat, "hello /sa") == []


def test_completion_is_silent_when_the_server_is_gone(chat, server):
    chat.client = Client("http://127.0.0.1:9")
    assert commands.complete(chat, "/model ") == []


def test_a_lost_server_leaves_the_session_and_the_half_answer(tmp_path):
    broken = [text("half an ans")]
    whole = [text("whole"), END, DONE]
    with raw_server(answers=[broken, whole]) as server:
        out = Out(stdout=io.StringIO(), stderr=io.StringIO())
        session = Session()
        session.change(model="raw")
        chat = Chat(Client(server.url), session, Store(tmp_path), out, lambda: Plain(out.stream))
        handle(chat, "question")
        assert chat.session.messages[-1].content == "half an ans"
        assert chat.session.messages[-1].stopped
        assert "lost in the middle" in out.stderr.getvalue()
        assert "/retry" in out.stderr.getvalue()
        handle(chat, "/retry")
    assert contents(chat) == ["question", "whole"]


def test_a_refused_message_is_taken_back(tmp_path):
    body = b'{"error": {"message": "too long", "code": "context_length_exceeded"}}'
    with raw_server(status=400, body=body) as server:
        out = Out(stdout=io.StringIO(), stderr=io.StringIO())
        chat = Chat(Client(server.url), Session(), Store(tmp_path), out, lambda: Plain(out.stream))
        handle(chat, "question")
    assert chat.session.messages == ()
    assert "taken back" in out.stderr.getvalue()


def test_nothing_is_kept_where_that_was_asked(chat):
    chat.keep = False
    handle(chat, "hi")
    assert chat.store.names() == []


def test_the_loop_survives_errors_and_interrupts(chat):
    script = iter(["/nope", KeyboardInterrupt, "", "hi", "/exit", "never"])

    def read() -> str:
        item = next(script)
        if not isinstance(item, str):
            raise item
        return item

    converse(chat, read)
    assert contents(chat) == ["hi", "answer 1"]
    assert "no command `/nope`" in said(chat)
    assert "Ctrl-D" in said(chat)
    assert next(script) == "never"


@pytest.mark.parametrize(
    ("typed", "opened", "text_"),
    [
        ('"""', True, ""),
        ('"""a\nb', True, ""),
        ('"""\na\n\n  b\n"""', False, "a\n\n  b"),
        ('say """', False, 'say """'),
        ("a\nb", False, "a\nb"),
        ("   ", False, ""),
    ],
)
def test_quotes_hold_several_lines(typed, opened, text_):
    assert is_open(typed) == opened
    if not opened:
        assert unquote(typed) == text_


def test_every_error_of_a_command_is_one_for_people(chat):
    for name in commands.COMMANDS:
        try:
            commands.run(chat, name, "no such thing")
        except (KtError, Leave) as error:
            assert str(error) or isinstance(error, Leave)


def test_a_conversation_goes_on_where_the_disk_refuses_it_and_says_so_once(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kt_cli.unfinished.write", refuse)
    chat.say("one")
    chat.say("two")
    assert len(chat.session.messages) == 4
    assert said(chat).count("could not be saved") == 1
    assert "No space left on device" in said(chat)
    monkeypatch.undo()
    chat.say("three")
    assert len(chat.store.load(chat.name).conversation.messages) == 6
