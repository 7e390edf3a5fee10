"""Packed experts from the command line: shown, verified, removed with their model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kt_cli.app import run
from kt_cli.weights.packs import Shelf, folder_of

Kt = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def kt(home: Path, capsys: pytest.CaptureFixture[str]) -> Kt:
    def call(*argv: str, code: int = 0) -> dict[str, Any]:
        assert run([*argv, "--json"]) == code
        data: dict[str, Any] = json.loads(capsys.readouterr().out)
        return data

    return call


@pytest.fixture
def model(home: Path) -> Path:
    folder = home / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def packed(home: Path, model: Path, size: int = 1000) -> Path:
    held = Shelf(folder_of(home)).open(model, "test")
    file = held.file("layers.0", "int4")
    file.write_bytes(bytes(size))
    held.close()
    return file


def test_packs_are_shown_with_their_model_and_size(home: Path, model: Path, kt: Kt) -> None:
    assert kt("model", "packs")["packs"] == []
    packed(home, model)
    found = kt("model", "packs", "mine")
    assert (found["bytes"], found["packs"][0]["checkpoint"]) == (1000, str(model))
    assert kt("model", "list")["packed"] == {"mine": 1000}


def test_the_doctor_says_what_packs_take(
    home: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed(home, model, 5_000_000)
    run(["doctor", "--quick", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = (f for f in findings if f["name"] == "disk-packs")
    assert "take 5 MB" in found["what"]


def test_removing_a_model_removes_its_packs(home: Path, model: Path, kt: Kt) -> None:
    packed(home, model)
    assert "packed experts" in kt("model", "rm", "mine", code=2)["error"]["why"]
    kt("model", "rm", "mine", "--yes")
    assert kt("model", "packs")["packs"] == []


def test_packs_are_removed_alone_after_asking(home: Path, model: Path, kt: Kt) -> None:
    file = packed(home, model)
    assert kt("model", "packs", "--clear", code=2)["error"]["fix"] == "add --yes to confirm"
    assert file.exists()
    assert kt("model", "packs", "--clear", "--yes")["bytes"] == 1000
    assert not file.parent.exists()
    assert model.exists()


def test_a_damaged_pack_is_found_and_removed(home: Path, model: Path, kt: Kt) -> None:
    kt_moe = pytest.importorskip("kt_moe")
    if not kt_moe.available:
        pytest.skip(kt_moe.why)
    file = packed(home, model)
    whole = file.with_name("layers.1.int4.ktmoe")
    kt_moe.Experts(1, 32, 32, format="int4", top_k=1).save(whole)
    found = kt("model", "packs", "--verify")
    assert (found["files"], found["damaged"]) == (2, [str(file)])
    assert (file.exists(), whole.exists()) == (False, True)
