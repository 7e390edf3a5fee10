from __future__ import annotations

from dataclasses import replace

import pytest

from kt_cli.core.calibrate import calibrated, calibrated_sglang
from kt_cli.core.history import Outcome
from kt_cli.core.machine import Measured
from kt_cli.core.plan_run import plan_run
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.test_plan_sglang import qwen30, server

FACTS = read_facts()


def outcome(resident: int, decode: float | None = None) -> Outcome:
    return Outcome(
        "small", "embedded", "2026-01-01", 2_000_000_000, resident, decode=decode, decode_limit=100
    )


def test_few_loads_teach_nothing() -> None:
    assert calibrated(FACTS.embedded, [outcome(2_500_000_000)] * 2) == FACTS.embedded


def test_loads_correct_the_base_and_narrow_the_speed() -> None:
    seen = [outcome(2_100_000_000, decode=50.0)] * 3
    learned = calibrated(FACTS.embedded, seen)
    assert learned.base_bytes == FACTS.embedded.base_bytes + 100_000_000
    assert learned.decode_efficiency == (0.5 * 0.85, 0.5 * 1.15)


def test_what_was_learned_is_kept_by_loads_that_were_foretold_with_it() -> None:
    seen = [outcome(2_100_000_000)] * 3
    learned = calibrated(FACTS.embedded, seen).base_bytes
    later = replace(outcome(2_100_000_000), expected=2_100_000_000, base=learned)
    assert calibrated(FACTS.embedded, [later] * 9 + seen).base_bytes == learned


def beside_gpu(resident: int, vram: int, kv_used: int | None = 100) -> Outcome:
    facts = FACTS.embedded
    return replace(
        outcome(resident),
        vram=vram,
        expected_vram=4_000_000_000,
        kv_used=kv_used,
        base=facts.base_bytes + facts.gpu_host_bytes,
        context=facts.gpu_context_bytes,
    )


def test_loads_beside_a_gpu_correct_what_cuda_takes_on_either_side_and_nothing_else() -> None:
    facts = FACTS.embedded
    learned = calibrated(facts, [beside_gpu(2_100_000_000, 3_950_000_000)] * 3)
    assert learned.base_bytes == facts.base_bytes
    assert learned.gpu_host_bytes == facts.gpu_host_bytes + 100_000_000
    assert learned.gpu_context_bytes == facts.gpu_context_bytes - 50_000_000


def test_what_was_learned_of_a_gpu_is_kept_by_loads_foretold_with_it() -> None:
    first = [beside_gpu(2_100_000_000, 3_950_000_000)] * 3
    learned = calibrated(FACTS.embedded, first)
    later = replace(
        first[0],
        expected=2_100_000_000,
        expected_vram=3_950_000_000,
        base=learned.base_bytes + learned.gpu_host_bytes,
        context=learned.gpu_context_bytes,
    )
    assert calibrated(FACTS.embedded, [*first, *[later] * 9]) == learned


def test_a_server_on_a_gpu_that_has_not_served_yet_teaches_nothing() -> None:
    idle = [beside_gpu(1_600_000_000, 3_800_000_000, kv_used=0)] * 9
    assert calibrated(FACTS.embedded, idle) == FACTS.embedded


def test_gpu_memory_that_no_driver_told_leaves_the_context_as_it_is() -> None:
    unseen = [replace(beside_gpu(2_100_000_000, 0), vram=None)] * 3
    learned = calibrated(FACTS.embedded, unseen)
    assert learned.gpu_context_bytes == FACTS.embedded.gpu_context_bytes
    assert learned.gpu_host_bytes > FACTS.embedded.gpu_host_bytes


def served(resident: int, vram: int, decode: float | None = None) -> Outcome:
    """SGLang on two GPUs: 2.0 to 2.2 GB and 8.0 to 8.4 GB were foretold."""
    return Outcome(
        "small",
        "sglang",
        "2026-01-01",
        2_200_000_000,
        resident,
        vram=vram,
        expected_vram=8_400_000_000,
        idle=2_000_000_000,
        idle_vram=8_000_000_000,
        decode=decode,
        decode_limit=100,
        base=FACTS.sglang.host_base,
        context=FACTS.sglang.cuda_context,
        gpus=2,
    )


def test_sglang_inside_what_was_foretold_teaches_nothing() -> None:
    assert (
        calibrated_sglang(FACTS.sglang, [served(2_100_000_000, 8_100_000_000)] * 9) == FACTS.sglang
    )
    far = [served(3_000_000_000, 9_000_000_000)] * 2
    assert calibrated_sglang(FACTS.sglang, far) == FACTS.sglang


def test_sglang_outside_moves_its_base_and_each_gpus_context() -> None:
    facts = FACTS.sglang
    learned = calibrated_sglang(facts, [served(2_300_000_000, 7_900_000_000)] * 3)
    assert learned.host_base == facts.host_base + 100_000_000
    assert learned.cuda_context == facts.cuda_context - 50_000_000
    later = replace(
        served(2_300_000_000, 7_900_000_000),
        expected=2_300_000_000,
        idle=2_100_000_000,
        expected_vram=8_300_000_000,
        idle_vram=7_900_000_000,
        base=learned.host_base,
        context=learned.cuda_context,
    )
    assert calibrated_sglang(facts, [later] * 9) == learned


def test_engines_do_not_teach_each_other() -> None:
    assert calibrated(FACTS.embedded, [served(9_000_000_000, 0, 5.0)] * 9) == FACTS.embedded
    assert calibrated_sglang(FACTS.sglang, [outcome(9_000_000_000, 5.0)] * 9) == FACTS.sglang


def test_sglangs_measured_pace_moves_and_narrows_the_range() -> None:
    seen = [served(2_100_000_000, 8_100_000_000, decode=50.0)] * 3
    hardware = server(measured=Measured(read_gbs={64: 400.0}, gpu_gbs=900.0))
    learned = replace(FACTS, sglang=calibrated_sglang(FACTS.sglang, seen))
    options = RunOptions(model="q", engine="sglang", kt_method="BF16")
    before, after = (
        plan_run(hardware, qwen30(), options, facts).speed.decode for facts in (FACTS, learned)
    )
    assert before and after
    middle = (before.low + before.high) / 4
    assert (after.low, after.high) == pytest.approx((middle * 0.85, middle * 1.15))
