"""Keeping packed experts: worth it where packing takes seconds and disk is plentiful."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kt_cli.core.machine import Disk, Engine, Machine
from kt_cli.core.packing import PLENTY, SPARE
from kt_cli.core.plan import Plan, Source
from kt_cli.core.plan_run import Origins, plan_run
from kt_cli.core.units import GB, GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import AMX, machine, small_model

FACTS = read_facts()
LARGE = replace(small_model(layers=200, experts=32), path="/models/large")
"""17 GB in bf16."""
WEIGHTS = LARGE.parameters["routed_experts"]
INT4 = int(WEIGHTS * 0.5625)


def box(free: int = 500 * GB, *, disk: bool = True) -> Machine:
    disks = (Disk("/home", 1000 * GB, free),) if disk else ()
    found = machine(ram=200 * GIB, isa=AMX)
    return replace(found, engines=(Engine("kt_moe", "0.1"),), disks=disks)


def plan(options: RunOptions | None = None, here: Machine | None = None, layers: int = 0) -> Plan:
    wanted = options or RunOptions(model="large", kt_method="INT4")
    packed = replace(FACTS.embedded, packed={"INT4": (layers, INT4)} if layers else {})
    facts = replace(FACTS, embedded=packed)
    return plan_run(here or box(), LARGE, wanted, facts)


def choice(made: Plan) -> str:
    return str(made.value("pack_cache"))


def test_slow_packing_is_done_once_and_the_disk_is_in_the_ledger() -> None:
    made = plan()
    assert choice(made) == "write"
    (disk,) = (pool for pool in made.pools if pool.name == "disk")
    assert [(i.name, i.bytes) for i in disk.items] == [("packed experts", INT4)]


def test_later_starts_map_what_was_packed() -> None:
    first, later = plan(), plan(layers=200)
    assert choice(later) == "map"
    assert not [pool for pool in later.pools if pool.name == "disk"]
    items = {i.name: i for pool in later.pools for i in pool.items}
    assert items["experts"].bytes == INT4
    assert "mapped from disk" in items["experts"].formula
    assert first.speed.load_s is not None and later.speed.load_s is not None
    assert later.speed.load_s.high < first.speed.load_s.low


def test_half_a_pack_is_completed() -> None:
    assert choice(plan(layers=199)) == "write"


@pytest.mark.parametrize(
    ("free", "wish", "chosen"),
    [
        (PLENTY + INT4, None, "write"),
        (PLENTY + INT4 - 1, None, "off"),
        (SPARE + INT4, "on", "write"),
        (SPARE + INT4 - 1, "on", "off"),
        (500 * GB, "off", "off"),
        (500 * GB, "auto", "write"),
    ],
)
def test_disk_must_be_plentiful_unless_it_is_asked_for(
    free: int, wish: str | None, chosen: str
) -> None:
    options = RunOptions(model="large", kt_method="INT4", pack_cache=wish)
    assert choice(plan(options, box(free))) == chosen


def test_the_limit_is_kept() -> None:
    options = RunOptions(model="large", kt_method="INT4", pack_cache_size=GB)
    made = plan(options)
    assert choice(made) == "off"
    assert "the limit is 1.00 GB" in made.decision("pack_cache").why


def test_quick_packing_is_repeated() -> None:
    here = replace(box(), disks=box().disks)
    made = plan_run(here, small_model(), RunOptions(model="small"), FACTS)
    assert choice(made) == "off"
    assert "packing takes" in made.decision("pack_cache").why


def test_torch_packs_nothing_and_off_uses_nothing() -> None:
    torch = RunOptions(model="large", experts_backend="torch", pack_cache="on")
    assert choice(plan(torch)) == "off"
    off = RunOptions(model="large", kt_method="INT4", pack_cache="off")
    made = plan(off, layers=200)
    assert choice(made) == "off"
    assert "mapped" not in str(made.pools)


def test_an_unknown_disk_is_left_alone() -> None:
    assert choice(plan(here=box(disk=False))) == "off"


@pytest.mark.parametrize(("source", "foreign"), [("flag", True), ("config", False)])
def test_for_sglang_the_flag_means_nothing_and_the_setting_is_no_fault(
    source: Source, foreign: bool
) -> None:
    options = RunOptions(model="large", engine="sglang", pack_cache="on")
    origins = Origins({"pack_cache": source})
    made = plan_run(machine(ram=200 * GIB, gpus=1), LARGE, options, FACTS, origins)
    assert any("--pack-cache" in problem.what for problem in made.problems) == foreign
