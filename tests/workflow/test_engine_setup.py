"""When SGLang is offered, and what an offer says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kt_cli import app
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.plan import Plan
from kt_cli.engines.environments import spec_of
from kt_cli.errors import EnvironmentBroken
from kt_cli.workflow.engine_setup import missing_sglang, offer


def plan_on(machine: Machine) -> Plan:
    """Takes SGLang where it is."""
    engine = "sglang" if machine.engine("sglang") else "embedded"
    return Plan("m", "", machine.name, engine, (), ())


def machine_named(name: str) -> Machine:
    from kt_cli.workflow.machines import base_machine

    return dataclasses.replace(base_machine(name, Path("none")), engines=())


def test_sglang_is_offered_only_where_it_would_be_used() -> None:
    with_gpu = machine_named("4090+2x6454s")
    assert missing_sglang(with_gpu, plan_on) is spec_of("sglang")
    assert missing_sglang(dataclasses.replace(with_gpu, gpus=()), plan_on) is None
    there = dataclasses.replace(with_gpu, engines=(Engine("sglang", "0.7.2"),))
    assert missing_sglang(there, plan_on) is None
    assert missing_sglang(with_gpu, lambda m: dataclasses.replace(plan_on(m), engine="x")) is None


def test_an_offer_tells_sizes_and_folder(tmp_path: Path) -> None:
    made = offer(spec_of("embedded"), tmp_path)
    assert not made.ready and made.fetch > 100_000_000
    assert str(tmp_path / "engines" / "embedded") in made.question and "MB to download" in made.text
    assert [link.name for link in made.build.links] == ["kt_cli", "kt_moe"]


def test_an_engine_for_another_python_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    spec = dataclasses.replace(spec_of("sglang"), python=">=3.99")
    with pytest.raises(EnvironmentBroken, match="cannot be installed"):
        offer(spec, tmp_path)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["path", "sglang"], 3, "kt engine install sglang"),
        (["verify", "sglang"], 3, "is not installed"),
        (["remove", "sglang"], 3, "is not installed"),
        (["install", "vllm"], 3, "known are `sglang`"),
        (["install", "sglang"], 2, "GB to download"),
        (["install"], 2, "NAME is missing"),
        (["list"], 0, "not installed"),
    ],
)
def test_commands_without_an_environment(
    argv: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KT_HOME", str(tmp_path))
    assert app.run(["engine", *argv]) == code
    assert said in "".join(capsys.readouterr())
