from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kt_cli.core.drift import plan_from_json, plan_to_json
from kt_cli.core.history import (
    FIRST,
    LATE,
    Cache,
    Outcome,
    compare,
    expected_now,
    expected_vram,
)
from kt_cli.core.plan import Kind, Plan, Range, Speed
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import MIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import machine, small_model

FACTS = read_facts()


def plan() -> Plan:
    made = plan_run(machine(), small_model(), RunOptions(model="small"), FACTS)
    return replace(made, speed=Speed(decode=Range(20, 40), load_s=Range(1, 2)))


def outcome(resident: int, decode: float | None = None) -> Outcome:
    return Outcome(
        "small", "embedded", "2026-01-01", 2_000_000_000, resident, decode=decode, decode_limit=100
    )


def test_untouched_cache_is_not_resident() -> None:
    made = plan()
    whole, empty = expected_now(made), expected_now(made, Cache(0))
    (pool,) = made.pools
    cache = next(i.bytes for i in pool.items if i.name == "KV cache")
    assert whole - empty == cache


def test_a_gpus_cache_is_taken_whole_where_it_is_pooled() -> None:
    options = RunOptions(model="small", device="cuda")
    made = plan_run(machine(gpus=1), small_model(), options, FACTS)
    (gpu,) = (p for p in made.pools if p.name == "GPU0")
    cache = next(i.bytes for i in gpu.items if i.name == "KV cache")
    assert expected_vram(made, Cache(0)) == gpu.used
    assert expected_vram(made, Cache(0, pooled=False)) == gpu.used - cache
    assert expected_vram(plan()) is None


def test_files_and_what_is_given_back_are_no_memory_of_a_server_at_rest() -> None:
    (pool,) = plan().pools
    passing = {i.name: i.bytes for i in pool.items if i.name in ("libraries", "workspace")}
    assert len(passing) == 2
    assert expected_now(plan()) == pool.used - sum(passing.values())


def test_a_gpu_may_be_off_by_256_mib() -> None:
    seen = replace(outcome(2_000_000_000), vram=1_000_000_000)
    for missing, inside in ((250 * MIB, True), (260 * MIB, False)):
        _, line, *_ = compare(plan(), replace(seen, expected_vram=1_000_000_000 - missing))
        assert line.inside is inside


def test_huge_pages_are_touched_whole() -> None:
    size, tokens = 180 * 4 * MIB, 32768
    small = Cache(1, segments=180).touched(size, tokens)
    assert small == 180 * 4096
    assert Cache(1, segments=180, huge=True).touched(size, tokens) == 180 * 2 * MIB
    assert Cache(tokens, segments=180, huge=True).touched(size, tokens) == size


def test_three_hundredths_or_150_mb_are_inside() -> None:
    (inside,) = compare(plan(), outcome(2_140_000_000))
    (outside,) = compare(plan(), outcome(2_160_000_000))
    assert (inside.inside, outside.inside) == (True, False)


def test_what_long_prompts_fill_may_be_filled_or_not() -> None:
    seen = replace(outcome(3_000_000_000), expected=5_000_000_000, idle=2_900_000_000)
    for resident, off, inside in ((2_000, 0.45, False), (4_000, 0, True), (5_100, -0.0196, True)):
        (line,) = compare(plan(), replace(seen, resident=resident * 10**6))
        assert line.off == pytest.approx(off, abs=0.001)
        assert (line.inside, line.predicted) == (inside, "2900–5000 MB")


def test_sglangs_buffers_for_long_prompts_come_late() -> None:
    options = RunOptions(model="small", engine="sglang", kt_method="BF16", gpu_experts=1)
    made = plan_run(machine(gpus=1), small_model(), options, FACTS)
    late = {i.kind: i.bytes for p in made.pools for i in p.items if i.kind in LATE}
    assert late.keys() == set(LATE)
    host = late[Kind.SCRATCH] + late[Kind.PINNED]
    assert expected_now(made) - expected_now(made, without=LATE) == host
    whole, idle = expected_vram(made), expected_vram(made, without=LATE)
    assert whole and idle and whole - idle == late[Kind.WORKSPACE] + late[Kind.SLOT]


@pytest.mark.parametrize("engine", ["embedded", "sglang"])
def test_names_of_lines_are_for_people_alone(engine: str) -> None:
    made = plan_run(machine(gpus=1), small_model(), RunOptions(engine=engine), FACTS)
    pools = tuple(
        replace(p, items=tuple(replace(i, name=f"line {i.bytes}") for i in p.items))
        for p in made.pools
    )
    renamed = replace(made, pools=pools)
    for cache in (None, Cache(100)):
        assert expected_now(renamed, cache, FIRST) == expected_now(made, cache, FIRST)
        assert expected_vram(renamed, cache, LATE) == expected_vram(made, cache, LATE)
    kinds = {i.kind for p in pools for i in p.items}
    assert {Kind.CACHE, Kind.EXPERTS, Kind.WORKSPACE} <= kinds
    assert plan_from_json(json.loads(json.dumps(plan_to_json(made)))) == made


def test_speed_outside_the_range_is_said() -> None:
    lines = compare(plan(), outcome(2_000_000_000, decode=10.0))
    assert [line.inside for line in lines] == [True, False]


def test_beside_a_gpu_a_server_at_rest_lies_between_unused_and_used() -> None:
    made = plan_run(machine(gpus=1), small_model(), RunOptions(model="small", device="cuda"), FACTS)
    used, unused = expected_now(made, Cache(0)), expected_now(made, Cache(0), FIRST)
    assert used - unused >= FACTS.embedded.gpu_host_bytes
    for resident, inside in ((unused, True), (used, True), (unused - 160_000_000, False)):
        seen = replace(outcome(resident), expected=used, idle=unused)
        assert compare(made, seen)[0].inside is inside
