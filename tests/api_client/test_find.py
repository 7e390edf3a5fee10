"""Which server is talked to, and that a key goes only where it belongs."""

import json
import os

import pytest

from kt_cli.api_client.find import DEFAULT_URL, Address, find
from kt_cli.errors import NotReadyError
from kt_cli.runtime.procs import identify


def register(home, name, *, state="ready", port=30001, key="", model="", started=1.0):
    from kt_cli.core.serial import to_plain
    from kt_cli.runtime.register import Folder, Server

    folder = Folder(home, name)
    folder.path.mkdir(parents=True)
    if key:
        folder.key.write_text(key + "\n")
    server = Server(
        name=name,
        model=model or name,
        engine="embedded",
        url=f"http://127.0.0.1:{port}",
        state=state,
        started=started,
        supervisor=identify(os.getpid()),
        pid=os.getpid(),
        api_key_file=str(folder.key) if key else "",
    )
    folder.state.write_text(json.dumps(to_plain(server)))


def test_nothing_known_is_the_default_address(tmp_path):
    assert find(tmp_path, environ={}) == Address(DEFAULT_URL)


def test_a_flag_wins_over_all(tmp_path):
    register(tmp_path, "demo")
    environ = {"KT_URL": "http://a", "OPENAI_BASE_URL": "http://b", "KT_API_KEY": "k"}
    assert find(tmp_path, url="http://c", environ=environ) == Address("http://c", "k")
    assert find(tmp_path, environ=environ).url == "http://a"


def test_the_running_server_and_its_key(tmp_path):
    register(tmp_path, "demo", key="secret")
    found = find(tmp_path, environ={"OPENAI_BASE_URL": "http://b", "OPENAI_API_KEY": "other"})
    assert (found.url, found.api_key) == ("http://127.0.0.1:30001", "secret")
    same = find(tmp_path, url="127.0.0.1:30001/v1", environ={})
    assert same.api_key == "secret"
    assert find(tmp_path, url="http://elsewhere", environ={}).api_key == ""


def test_the_key_of_openai_goes_to_its_own_address_only(tmp_path):
    environ = {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "https://b/v1"}
    assert find(tmp_path, environ=environ) == Address("https://b/v1", "sk")
    assert find(tmp_path, environ={"OPENAI_API_KEY": "sk"}).api_key == ""
    assert find(tmp_path, url="http://c", environ=environ).api_key == ""


def test_among_several_the_one_with_the_model_else_the_youngest(tmp_path):
    register(tmp_path, "old", port=1, started=1.0)
    register(tmp_path, "young", port=2, started=2.0)
    register(tmp_path, "dead", port=3, state="stopped", started=3.0)
    found = find(tmp_path, environ={})
    assert found.url.endswith(":2")
    assert "old" in found.note
    assert find(tmp_path, model="old", environ={}).url.endswith(":1")


def test_a_starting_server_is_not_ready(tmp_path):
    register(tmp_path, "demo", state="starting")
    with pytest.raises(NotReadyError, match="still starting"):
        find(tmp_path, environ={})
