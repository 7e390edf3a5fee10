"""Real logs of sglang-kt 0.7.2 on an H100, cut down: what kt reads out of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kt_cli.core.machine import Cpu, Machine, Memory
from kt_cli.core.plan import Plan
from kt_cli.engines import sglang
from kt_cli.options import RunOptions
from kt_cli.runtime import autopsy
from kt_cli.runtime.watch import LogWatch

DATA = Path(__file__).parent / "data"
SPEC = sglang.lower(
    Plan("m8", "", "box", "sglang", (), ()),
    RunOptions(),
    "python",
    Machine("box", Cpu("x", "y", (), (), 1, 1), (), Memory(1, 1)),
)
KILLED = 9
"""A wait status: SGLang ends itself by SIGKILL."""


def read(name: str) -> tuple[LogWatch, list[str]]:
    watch = LogWatch(SPEC)
    seen = [p.stage for p in watch.feed((DATA / f"{name}.log").read_bytes())]
    return watch, seen


def test_a_start_is_followed_to_its_end_and_nothing_in_it_looks_like_a_failure() -> None:
    watch, seen = read("sglang-bf16")
    assert seen == [
        "starting workers",
        "loading weights",
        "placing experts",
        "weights loaded",
        "allocating the KV cache",
        "capturing CUDA graphs",
        "warming up",
        "ready",
    ]
    assert watch.diagnosis is None


def test_the_workers_error_explains_the_end_and_not_the_signal() -> None:
    watch, seen = read("sglang-no-memory")
    assert seen[-1] == "weights loaded"
    failure = autopsy.ended("m8", KILLED, was_ready=False, log=watch, oom=False)
    assert "KV cache" in failure.what and "--gpu-experts" in failure.fix
    assert failure.exit_code == 137


@pytest.mark.parametrize("name", ["sglang-bf16", "sglang-no-memory"])
def test_all_stages_seen_are_in_order(name: str) -> None:
    watch = LogWatch(SPEC)
    fractions = [p.fraction for p in watch.feed((DATA / f"{name}.log").read_bytes())]
    assert fractions == sorted(fractions)
