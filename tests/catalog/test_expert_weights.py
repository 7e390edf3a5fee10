"""`--weights-path` is looked at before anything is planned with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_cli import catalog
from kt_cli.app import run
from kt_cli.catalog.expert_weights import require_experts_of
from kt_cli.errors import NotFoundError, UsageError
from tests.tiny_models import mixtral_headers, write_headers


def test_a_folder_of_the_models_own_experts_is_taken(tmp_path: Path) -> None:
    folder = mixtral_headers(tmp_path / "m")
    require_experts_of(folder, catalog.read(folder))
    converted = tmp_path / "c" / "_layer_0" / "_numa_0"
    converted.mkdir(parents=True)
    require_experts_of(tmp_path / "c", catalog.read(folder))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    model = catalog.read(mixtral_headers(tmp_path / "m"))
    with pytest.raises(NotFoundError, match="no expert weights at"):
        require_experts_of(tmp_path / "nope", model)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    model = catalog.read(mixtral_headers(tmp_path / "m"))
    other, empty = tmp_path / "other", tmp_path / "empty"
    other.mkdir()
    empty.mkdir()
    names = {f"blk.0.ffn_up_exps.{e}.numa.0.weight": ("I8", (4, 4)) for e in range(8)}
    write_headers(other / "x.safetensors", names)
    with pytest.raises(UsageError, match="is not of m") as caught:
        require_experts_of(other, model)
    assert "1 layers of 8 experts" in caught.value.why
    with pytest.raises(UsageError, match="holds no expert weights"):
        require_experts_of(empty, model)


def test_the_command_looks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path / "home"))
    folder = mixtral_headers(tmp_path / "m")
    assert run(["plan", str(folder), "--weights-path", str(tmp_path / "nope")]) == 3
    assert "no expert weights at" in capsys.readouterr().err


def test_flags_of_sglang_may_follow_the_model_in_a_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    told = ["plan", "qwen3-30b", "--on", "4090+2x6454s", "--explain", "--log-level", "debug"]
    assert run(told) == 0
    shown = capsys.readouterr().out.rstrip().splitlines()
    assert "kt run qwen3-30b --log-level debug" in shown
    assert shown[-1].endswith("--log-level debug")
    assert run(["plan", "demo", "--log-level", "debug"]) == 2
