"""Conversations on disk."""

import json
import os
import stat

import pytest

from kt_cli.api_client.params import Params
from kt_cli.chat.session import Conversation, Message
from kt_cli.chat.store import SCHEMA, Store
from kt_cli.errors import KtError, NotFoundError, UsageError

TALK = Conversation(
    (Message("user", "hi"), Message("assistant", "[red] ü", "hm", stopped=True)),
    "S",
    "m",
    Params(temperature=0.5),
    1.0,
    2.0,
)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_conversation_comes_back_as_it_was(store):
    path = store.save("one", TALK)
    assert store.load("one").conversation == TALK
    assert json.loads(path.read_text())["schema"] == SCHEMA
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["one.json"]


def test_a_failed_write_leaves_the_old_file(store, monkeypatch):
    store.save("one", TALK)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(KtError) as caught:
        store.save("one", Conversation())
    assert "disk full" in caught.value.why
    monkeypatch.undo()
    assert store.load("one").conversation == TALK
    assert len(list(store.folder.iterdir())) == 1


def test_the_latest_comes_first(store):
    for number, name in enumerate(["b", "a", "c"]):
        path = store.save(name, TALK)
        os.utime(path, (number, number))
    assert store.names() == ["c", "a", "b"]
    assert store.latest().name == "c"


def test_a_unique_beginning_is_enough(store):
    store.save("alpha", TALK)
    store.save("alpine", TALK)
    assert store.load("alpi").name == "alpine"
    with pytest.raises(UsageError, match="several"):
        store.load("al")
    with pytest.raises(NotFoundError):
        store.load("beta")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_names_cannot_leave_the_folder(store, name):
    with pytest.raises(UsageError):
        store.save(name, TALK)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"schema": "kt.conversation/9"}', json.dumps({"schema": SCHEMA, "x": 1})],
)
def test_a_broken_file_is_named_and_hides_no_other(store, content):
    store.save("good", TALK)
    (store.folder / "bad.json").write_text(content)
    with pytest.raises(KtError, match="bad"):
        store.load("bad")
    assert [saved.name for saved in store.list()] == ["good"]


def test_nothing_saved(store):
    assert store.list() == []
    with pytest.raises(NotFoundError):
        store.latest()


def test_free_names_do_not_collide(store):
    names = set()
    for _ in range(3):
        name = store.free_name()
        store.save(name, TALK)
        names.add(name)
    assert len(names) == 3
