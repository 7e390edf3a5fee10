"""`kt model` from the command line, against a hub on loopback."""

import json
import random
from pathlib import Path

import pytest
from hub_server import FakeHub

from kt_cli.app import run

RNG = random.Random(3)
FILES = {
    "config.json": b'{"model_type": "mixtral"}',
    "model.safetensors": RNG.randbytes(500_000),
    "pytorch_model.bin": b"a pickle",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with FakeHub(FILES) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def kt(capsys, *argv: str, code: int = 0) -> dict:
    assert run([*argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_pull_list_verify_remove(hub, capsys, tmp_path: Path) -> None:
    pulled = kt(capsys, "model", "pull", "acme/model")
    assert pulled["files"] == 2 and pulled["revision"] == hub.revision
    (entry,) = kt(capsys, "model", "list")["models"]
    assert (entry["name"], entry["state"], entry["repo"]) == ("model", "ready", "acme/model")
    assert kt(capsys, "model", "verify", "model")["faults"] == []
    assert not (Path(entry["path"]) / "pytorch_model.bin").exists()
    assert kt(capsys, "model", "rm", "model", code=2)["error"]["fix"] == "add --yes to confirm"
    kt(capsys, "model", "rm", "model", "--yes")
    assert kt(capsys, "model", "list")["models"] == []


def test_damage_is_found_named_and_repaired(hub, capsys) -> None:
    folder = Path(kt(capsys, "model", "pull", "acme/model")["path"])
    (folder / "model.safetensors").write_bytes(b"x" * 500_000)
    error = kt(capsys, "model", "verify", "model", code=7)["error"]
    assert "model.safetensors" in error["why"] and "--repair" in error["fix"]
    assert kt(capsys, "model", "verify", "model", "--repair")["repaired"]
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_pull_goes_on_at_the_commit_where_it_began(hub, capsys) -> None:
    hub.faults = {"model.safetensors": ["drop:300000", "status:404"]}
    kt(capsys, "model", "pull", "acme/model", code=3)
    assert kt(capsys, "model", "list")["models"][0]["state"] == "incomplete"
    hub.api_status = 500
    pulled = kt(capsys, "model", "pull", "acme/model")
    assert pulled["revision"] == hub.revision
    assert hub.ranges[-1] == "bytes=262144-"


def test_another_disk_is_linked(hub, capsys, tmp_path: Path) -> None:
    kt(capsys, "model", "pull", "acme/model", "--to", str(tmp_path / "disk"), "--name", "m")
    entry = kt(capsys, "model", "list")["models"][0]
    assert entry["linked"] and entry["path"] == str(tmp_path / "disk/m")
    (tmp_path / "disk").rename(tmp_path / "away")
    assert kt(capsys, "model", "list")["models"][0]["state"] == "unavailable"
    kt(capsys, "model", "pull", "acme/model", "--name", "m", code=3)
    assert not (tmp_path / "disk").exists()


def test_a_dry_run_writes_nothing(hub, capsys, tmp_path: Path) -> None:
    assert kt(capsys, "model", "pull", "acme/model", "--dry-run")["bytes"] == 500_025
    assert not (tmp_path / "home" / "models").exists()


def test_a_name_that_is_taken_by_another_repository_is_refused(hub, capsys) -> None:
    kt(capsys, "model", "pull", "acme/model")
    hub.repo = "other/model"
    kt(capsys, "model", "pull", "other/model", code=1)


def test_offline_on_purpose_is_said(hub, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = kt(capsys, "model", "pull", "acme/model", code=7)["error"]
    assert error["why"] == "HF_HUB_OFFLINE is set"


def test_scan_adds_each_model_once(hub, capsys, tmp_path: Path) -> None:
    for name in ("a/x", "b/x"):
        folder = tmp_path / "disk" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "m.safetensors").write_bytes(b"0")
    assert kt(capsys, "model", "scan", str(tmp_path / "disk"), "--add")["added"] == ["x", "x-2"]
    assert kt(capsys, "model", "scan", str(tmp_path / "disk"))["found"] == []


def test_edit_renames_and_repoints(hub, capsys, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(b"GGUF")
    kt(capsys, "model", "add", str(folder / "m.gguf"))
    assert kt(capsys, "model", "edit", "m", "--rename", "n")["name"] == "n"
    assert kt(capsys, "model", "path", "n")["path"].endswith("m.gguf")
    kt(capsys, "model", "edit", "n", code=2)


def test_a_model_that_cannot_be_read_beforehand_is_pulled_all_the_same(hub, capsys) -> None:
    assert run(["model", "pull", "acme/model"]) == 0
    assert "whether it fits is not known" in capsys.readouterr().err


def test_a_known_model_that_is_too_big_is_told_before_the_download(hub, capsys) -> None:
    hub.repo = "deepseek-ai/DeepSeek-V3-0324"
    assert run(["model", "pull", hub.repo, "--dry-run"]) == 0
    assert "names ways out" in capsys.readouterr().err
