"""The command: one value as text and as JSON, and an exit code that scripts can trust."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from kt_cli.app import run
from kt_cli.probe import toml


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def sound(home: Path) -> Path:
    """A managed environment whose engine is there, so that nothing is missing."""
    return engine(home, {"torch": "2.9.1", "kt-kernel": "0.7.2"})


def engine(home: Path, packages: dict[str, str]) -> Path:
    site = home / "engines" / "test" / "lib" / "python3.12" / "site-packages"
    for name, version in packages.items():
        (site / f"{name.replace('-', '_')}-{version}.dist-info").mkdir(parents=True)
    (home / "engines" / "test" / "bin").mkdir()
    (home / "engines" / "test" / "bin" / "python").write_text("")
    return site


def test_json_has_a_schema_and_every_finding_its_fields(sound: Path, capsys) -> None:
    code = run(["doctor", "--quick", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "kt.doctor/1"
    assert set(data) == {"schema", "broken", "findings", "repaired", "machine"}
    keys = {"name", "topic", "severity", "what", "why", "fix", "repair", "safe"}
    assert all(set(finding) == keys for finding in data["findings"])
    assert code == (6 if data["broken"] else 0)


def test_it_exits_6_when_something_needed_is_broken(home: Path, capsys) -> None:
    engine(home, {"torch": "2.9.1", "sglang-kt": "0.7.2"})
    assert run(["doctor", "--quick"]) == 6
    said = capsys.readouterr().out
    assert "missing: kt-kernel, transformers-kt, ktransformers, accelerate-kt" in said
    assert said.splitlines()[-1].startswith("1 error")


def test_it_saves_the_machine(sound: Path, home: Path, capsys) -> None:
    file = home / "machine.toml"
    run(["doctor", "--quick", "--save", str(file)])
    assert f"wrote {file}" in capsys.readouterr().err
    assert toml.load(file).source == "this machine"


def test_it_is_quick_without_engines(sound: Path, capsys) -> None:
    started = time.process_time()
    run(["doctor", "--quick"])
    assert time.process_time() - started < 3


def test_without_a_terminal_it_asks_nobody_and_changes_nothing(
    sound: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    run(["doctor", "--quick", "--fix", "--no-input", "--json"])
    assert json.loads(capsys.readouterr().out)["repaired"] == []
