"""A Hugging Face cache that huggingface_hub itself has filled: found, planned, listed, removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from commands.sglang_stand_in import tiny_mixtral
from hub_server import FakeHub

from kt_cli import environment, hubcache
from kt_cli.app import run
from kt_cli.catalog import cached
from kt_cli.catalog.presets import load_presets

REPO = "acme/moe"
PLACES = [
    {"HF_HUB_CACHE": "/a/hub", "HF_HOME": "/b"},
    {"HUGGINGFACE_HUB_CACHE": "/a/old", "HF_HOME": "/b"},
    {"HF_HOME": "/b"},
    {"XDG_CACHE_HOME": "/c"},
    {},
]


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """One layer in two shards, without anything that a pull would leave out."""
    folder = tiny_mixtral(tmp_path / "there")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fill(files: dict[str, bytes], repo: str = REPO, **options: object) -> Path:
    """As transformers and `hf download` do it."""
    with FakeHub(files, repo=repo) as hub:
        for name in files:
            path = huggingface_hub.hf_hub_download(
                repo,
                name,
                endpoint=hub.url,
                token=False,
                cache_dir=environment.hub_cache(),
                **options,
            )
    return Path(path).parent


def kt(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict:
    got = run([*argv, "--json"])
    out, err = capsys.readouterr()
    assert got == code, err
    return json.loads(out)


@pytest.mark.parametrize("env", PLACES, ids=str)
def test_the_cache_is_where_the_library_has_it(env: dict[str, str]) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    env = {**env, "HOME": "/home/somebody", "PYTHONPATH": ":".join(sys.path)}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(environment.hub_cache(env))


def test_a_cached_repository_is_planned_and_shown_offline(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(files)
    shown = kt(capsys, "model", "show", REPO)
    assert (shown["path"], shown["repo"], shown["exact"]) == (str(folder), REPO, True)
    plan = kt(capsys, "plan", REPO, "--on", "laptop-16gb")
    assert (plan["model"], plan["run"]) == ("moe", f"kt run {REPO}")
    assert str(folder) in json.dumps(kt(capsys, "run", REPO, "--dry-run"))
    assert not list(folder.rglob(".kt*")), "the cache is the user's"


def test_a_commit_without_a_branch_is_found(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill(files, revision=FakeHub({}).revision)
    assert not (folder.parents[1] / "refs").exists()
    assert kt(capsys, "model", "show", REPO)["path"] == str(folder)


def test_a_preset_is_taken_from_the_cache(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    preset = next(p for p in load_presets() if "/" in p.repos.get("huggingface", ""))
    folder = fill(files, repo=preset.repos["huggingface"])
    for name in (preset.name, preset.repos["huggingface"]):
        assert kt(capsys, "model", "show", name)["path"] == str(folder)
    next(folder.glob("*.safetensors")).unlink()
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}})
    )
    left = kt(capsys, "model", "show", preset.name)
    assert left["path"] == "" and "kt model pull" in left["notes"][0]


def test_missing_shards_are_said_with_the_cure(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    split = {
        "config.json": files["config.json"],
        "model.safetensors.index.json": json.dumps(index).encode(),
        names[0]: files["model.safetensors"],
    }
    fill(split)
    for command in (["plan"], ["model", "show"], ["run"]):
        error = kt(capsys, *command, REPO, code=7)["error"]
        assert "not whole" in error["what"] and f"kt model pull {REPO}" in error["fix"]
        assert "1 of 2" in error["why"]
    (cached,) = kt(capsys, "model", "list")["cached"]
    assert (cached["name"], cached["state"]) == (REPO, "incomplete")


def test_what_kt_does_not_run_is_not_listed(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(files)
    fill({**files, "config.json": b'{"model_type": "bert"}'}, repo="acme/words")
    fill({"config.json": files["config.json"]}, repo="acme/tokenizer-only")
    listed = kt(capsys, "model", "list")
    assert [entry["name"] for entry in listed["cached"]] == [REPO]
    assert run(["model", "list"]) == 0
    assert "in the Hugging Face cache" in capsys.readouterr().out


def test_a_pull_takes_what_the_cache_has_and_others_find_what_it_fetches(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill({"model.safetensors": files["model.safetensors"]})
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with FakeHub(files, repo=REPO) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        pulled = kt(capsys, "model", "pull", REPO)
        assert "model.safetensors" not in hub.seen
    assert pulled["fetched"] == len(files["config.json"])
    there = huggingface_hub.snapshot_download(
        REPO, cache_dir=environment.hub_cache(), local_files_only=True
    )
    assert there == str(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert {p.resolve() for p in Path(pulled["path"]).glob("[a-z]*")} == {
        p.resolve() for p in folder.iterdir()
    }
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    listed = kt(capsys, "model", "list")
    assert [e["name"] for e in listed["models"]] == ["moe"] and listed["cached"] == []
    assert kt(capsys, "model", "show", REPO)["path"] == pulled["path"]


def test_removing_keeps_the_cache_unless_told(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    size = sum(map(len, files.values()))
    with FakeHub(files, repo=REPO) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        kt(capsys, "model", "pull", REPO)
        removed = kt(capsys, "model", "rm", "moe", "--yes")
        assert removed["bytes_in_cache"] == size
        folder = hubcache.find(REPO)
        assert folder and (folder / "model.safetensors").exists()
        assert kt(capsys, "model", "rm", REPO, "--yes", code=2)["error"]["fix"].startswith("add")
        kt(capsys, "model", "pull", REPO)
        kt(capsys, "model", "pull", REPO, "--name", "other")
        error = kt(capsys, "model", "rm", "moe", "--cache", "--yes", code=2)["error"]
        assert "other" in error["why"]
        kt(capsys, "model", "rm", "other", "--yes")
        assert kt(capsys, "model", "rm", "moe", "--cache", "--yes")["bytes_freed_in_cache"] == size
    assert hubcache.find(REPO) is None and hubcache.snapshots() == ()
    assert kt(capsys, "model", "list") | {"models": [], "cached": []} == kt(capsys, "model", "list")


def test_a_cache_that_was_emptied_is_filled_again(
    files: dict[str, bytes], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with FakeHub(files, repo=REPO) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        kt(capsys, "model", "pull", REPO)
        shutil.rmtree(environment.hub_cache())
        assert kt(capsys, "model", "list")["models"][0]["state"] == "incomplete"
        kt(capsys, "model", "pull", REPO)
        assert kt(capsys, "model", "verify", "moe")["faults"] == []


def test_no_cache_needs_no_library(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert kt(capsys, "model", "list")["cached"] == []
    assert cached(REPO) is None
    assert kt(capsys, "model", "show", "qwen3-30b-a3b")["name"]
