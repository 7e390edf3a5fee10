"""Folders and repositories that mean harm: nothing is run, nothing outside is touched."""

import json
import struct
from pathlib import Path

import pytest
from hub_server import FakeHub

from kt_cli.app import run

MARK = "harm-was-done"


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.touch, (self.place / MARK,))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hostile(folder: Path, place: Path) -> Path:
    import pickle

    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(place)))
    (folder / "modeling.py").write_text(f"open({str(place / MARK)!r}, 'w')")
    config = {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def say(capsys, *argv: str) -> tuple[int, str]:
    code = run(list(argv))
    shown = capsys.readouterr()
    return code, shown.out + shown.err


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 200) + b"{}",
        struct.pack("<Q", 9) + b"[" * 9,
        struct.pack("<Q", 2) + b"{}",
        b"",
    ],
    ids=["endless", "cut", "nested", "empty", "nothing"],
)
@pytest.mark.parametrize("command", ["show", "plan"])
def test_a_hostile_folder_is_refused_in_a_sentence(home, capsys, header, command) -> None:
    folder = hostile(home / "bad", home)
    (folder / "model.safetensors").write_bytes(header)
    argv = ["plan", str(folder)] if command == "plan" else ["model", "show", str(folder)]
    code, shown = say(capsys, *argv)
    assert code in (1, 3, 7) and "error: " in shown and "Traceback" not in shown
    assert not (home / MARK).exists()


def test_a_pickle_alone_is_no_model(home, capsys) -> None:
    folder = hostile(home / "bad", home)
    code, shown = say(capsys, "model", "add", str(folder))
    assert code == 3 and "safetensors" in shown
    assert not (home / MARK).exists()


def test_a_shard_that_is_a_link_to_a_secret_shows_nothing_of_it(home, capsys) -> None:
    secret = home / "secret"
    secret.write_text("the password is swordfish" * 10)
    folder = hostile(home / "bad", home)
    (folder / "model.safetensors").symlink_to(secret)
    code, shown = say(capsys, "model", "show", str(folder))
    assert code != 0 and "swordfish" not in shown


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "a/../../outside", ".kt-x"])
def test_a_repository_cannot_write_outside_its_folder(home, capsys, monkeypatch, name) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with FakeHub({"config.json": b"{}", name: b"x"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, shown = say(capsys, "model", "pull", "acme/model")
    assert code == 7 and "outside" in shown
    assert not any(path.name == "outside" for path in home.rglob("*"))
    assert not (home / "home" / "models" / "model").exists()
