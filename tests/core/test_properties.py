"""What holds for every machine and every wish."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kt_cli.catalog.presets import load_presets, planned_presets, preset_model
from kt_cli.core.machine import (
    STOLEN,
    Core,
    Cpu,
    Engine,
    Gpu,
    Machine,
    Measured,
    Memory,
    NumaNode,
)
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB
from kt_cli.core.what_if import completed, imagined
from kt_cli.engines.facts import read_facts, read_gpus
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from tests.core.builders import AMX, AVX2, machine
from tests.golden.make import machines

FACTS = read_facts()
MODELS = [(preset_model(p), p.hints) for p in planned_presets()]
EXAMPLES = int(os.environ.get("KT_EXAMPLES", "60"))
QUICK = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

picked = st.sampled_from(MODELS)
rams = st.integers(8, 2048)
vrams = st.integers(6, 180)
isas = st.sampled_from([AVX2, AMX])
wishes = st.fixed_dictionaries(
    {},
    optional={
        "ctx_size": st.integers(1, 200_000),
        "max_running_requests": st.integers(1, 64),
        "max_total_tokens": st.integers(1, 400_000),
        "gpu_experts": st.integers(0, 300),
        "tp": st.integers(1, 8),
        "cpu_threads": st.integers(1, 64),
        "chunked_prefill_size": st.sampled_from([512, 2048, 4096, 16384]),
        "gpu_prefill_threshold": st.integers(1, 20_000),
        "mem_fraction": st.floats(0.05, 0.99),
        "kt_method": st.sampled_from([m.name for m in FACTS.sglang.methods]),
        "engine": st.sampled_from(["embedded", "sglang"]),
        "kv_cache_dtype": st.sampled_from(["bf16", "fp8"]),
    },
)
shares = st.dictionaries(st.sampled_from([4, 8, 16, 32, 64]), st.floats(0, 1))
sizes = st.fixed_dictionaries(
    {},
    optional={
        "ctx_size": st.integers(1000, 100_000),
        "max_running_requests": st.integers(1, 16),
        "max_total_tokens": st.integers(100_000, 200_000),
        "kv_cache_dtype": st.sampled_from(["bf16", "fp8"]),
    },
)
DECIDED = {
    "ctx_size": "context",
    "max_total_tokens": "kv_tokens",
}


def hardware(ram: int, vram: int, gpus: int, nodes: int, isa: tuple[str, ...]) -> Machine:
    made = machine(ram=ram * GIB, cores=32, nodes=nodes, gpus=gpus, vram=vram * GIB, isa=isa)
    return replace(made, engines=(Engine("sglang", "0.7.2"), Engine("kt_moe", "0.1")))


def plan(model: Any, server: Machine, **asked: Any) -> Plan:
    return plan_run(server, model[0], RunOptions(model="m", **asked), FACTS, hints=model[1])


@QUICK
@given(picked, rams, vrams, st.integers(0, 8), st.sampled_from([1, 2, 4]), isas, wishes)
def test_no_plan_goes_over_memory_without_a_problem(
    model: Any, ram: int, vram: int, gpus: int, nodes: int, isa: Any, asked: dict[str, Any]
) -> None:
    made = plan(model, hardware(ram, vram, gpus, nodes, isa), **asked)
    if any(pool.left < 0 for pool in made.pools):
        assert any(p.severity in ("error", "warning") for p in made.problems)
    if any(pool.used + pool.margin > pool.capacity for pool in made.pools):
        assert not made.fits


@QUICK
@given(picked, rams, vrams, st.integers(0, 8), st.sampled_from([1, 2, 4]), isas, wishes)
def test_a_fixed_flag_stays_fixed(
    model: Any, ram: int, vram: int, gpus: int, nodes: int, isa: Any, asked: dict[str, Any]
) -> None:
    made = plan(model, hardware(ram, vram, gpus, nodes, isa), **asked)
    for name, value in asked.items():
        decided = DECIDED.get(name, name)
        if any(d.name == decided for d in made.decisions):
            assert made.decision(decided).value == value, name


@QUICK
@given(shares, st.integers(1, 128))
def test_threads_are_the_cores_or_as_many_as_ran_freely(
    stolen: dict[int, float], cores: int
) -> None:
    server = machine(cores=cores, stolen=stolen)
    free = [n for n, share in stolen.items() if share <= STOLEN]
    if not stolen or not free or max(free) == max(stolen):
        assert server.measured.unhindered is None
        assert server.threads == cores
    else:
        assert server.measured.unhindered == max(free)
        assert server.threads == min(cores, max(free))
    assert bool(server.held_back) == (server.threads < cores)


@QUICK
@given(picked, shares, st.integers(0, 2), st.sampled_from([1, 2]))
def test_more_cores_never_get_more_threads_than_ran_freely(
    model: Any, stolen: dict[int, float], gpus: int, nodes: int
) -> None:
    threads = []
    for cores in (8, 16, 32, 64, 96):
        made = machine(512 * GIB, cores, nodes, gpus, isa=AMX, stolen=stolen)
        made = completed(replace(made, engines=(Engine("sglang", "0.7.2"),)), ())
        assert made.measured.stolen == stolen
        threads.append(plan(model, made).value("cpu_threads") or 0)
        assert threads[-1] <= min(cores, made.measured.unhindered or cores)
    assert threads == sorted(threads)


def quality(made: Plan) -> tuple[Any, ...]:
    """What a better plan has more of, most important first; plans that do not fit are equal."""
    if not made.fits:
        return (False,)
    return (
        True,
        made.value("kt_method") is None,
        made.value("context"),
        made.value("gpu_prefill_threshold") is not None,
        made.value("kv_tokens"),
        made.value("chunked_prefill_size", 0),
        made.value("gpu_experts", 0),
    )


@QUICK
@given(
    picked,
    rams,
    vrams,
    st.integers(0, 8),
    st.integers(0, 512),
    st.integers(0, 96),
    st.integers(0, 8),
    isas,
    sizes,
)
def test_more_memory_never_gives_a_worse_plan(
    model: Any,
    ram: int,
    vram: int,
    gpus: int,
    more_ram: int,
    more_vram: int,
    more_gpus: int,
    isa: Any,
    asked: dict[str, Any],
) -> None:
    more_gpus = more_gpus if gpus else 0  # with the first GPU the engine is another
    small = plan(model, hardware(ram, vram, gpus, 2, isa), **asked)
    grown = hardware(ram + more_ram, vram + more_vram, gpus + more_gpus, 2, isa)
    large = plan(model, grown, **asked)
    assert quality(large) >= quality(small)


@QUICK
@given(picked, st.integers(64, 2048), vrams, st.integers(1, 4), isas)
def test_a_plan_that_fits_can_be_told_back(
    model: Any, ram: int, vram: int, gpus: int, isa: Any
) -> None:
    """The decisions given as flags make the same plan again."""
    server = hardware(ram, vram, gpus, 2, isa)
    made = plan(model, server)
    if not made.fits or made.engine != "sglang" or not made.value("kt_method"):
        return
    names = ("kt_method", "gpu_experts", "tp", "chunked_prefill_size", "cpu_threads")
    told = {name: made.value(name) for name in names}
    told |= {"ctx_size": made.value("context"), "max_total_tokens": made.value("kv_tokens")}
    told |= {"gpu_prefill_threshold": made.value("gpu_prefill_threshold") or 0}
    again = plan(model, server, **told)
    assert again.fits
    assert again.pools == made.pools


CARDS = {g.name: g for g in read_gpus() if g.name in ("RTX 3090", "RTX 4090", "RTX 5090", "A6000")}
nodes_of = st.lists(st.tuples(st.integers(16, 768), st.integers(2, 48)), min_size=1, max_size=4)
cards_of = st.lists(st.sampled_from(sorted(CARDS)), max_size=3)


def unequal(nodes: list[tuple[int, int]], cards: list[str], isa: tuple[str, ...] = AMX) -> Machine:
    """A machine of NUMA nodes of so many GiB and cores, with these GPUs."""
    at, held, sizes = 0, [], []
    for index, (gib, cores) in enumerate(nodes):
        cpus = tuple(range(at, at + cores))
        held += [Core((cpu,), index) for cpu in cpus]
        sizes.append(NumaNode(index, cpus, gib * GIB, gib * GIB))
        at += cores
    total = sum(n.memory for n in sizes)
    gpus = tuple(replace(imagined(CARDS[name]), index=i, node=0) for i, name in enumerate(cards))
    gbs = {1: 20.0, 16: 200.0, 64: 400.0, 256: 800.0}
    made = Machine(
        name="test",
        cpu=Cpu("CPU", "GenuineIntel", isa, tuple(held), at, at, sockets=len(nodes)),
        nodes=tuple(sizes),
        memory=Memory(total, total),
        gpus=gpus,
        measured=Measured(gbs, {"fp32": 4000.0, "bf16": 9000.0}, pcie_gbs=20.0, disk_gbs=1.0),
        engines=(Engine("sglang", "0.7.2"), Engine("kt_moe", "0.1")),
    )
    return completed(made, tuple(CARDS.values()))


def served(made: Plan) -> tuple[bool, int]:
    return made.fits, made.value("context") if made.fits else 0


@QUICK
@given(picked, nodes_of, cards_of, st.integers(0, 3), st.integers(1, 512))
def test_a_larger_node_or_one_more_never_gives_a_worse_plan_nor_a_slower_one(
    model: Any, nodes: list[tuple[int, int]], cards: list[str], which: int, more: int
) -> None:
    before = plan(model, unequal(nodes, cards))
    position = which % len(nodes)
    gib, cores = nodes[position]
    larger = [*nodes[:position], (gib + more, cores), *nodes[position + 1 :]]
    for grown in (larger, [*nodes, (max(1, more // 4), 8)]):
        after = plan(model, unequal(grown, cards))
        assert served(after) >= served(before), grown
        if before.fits and before.speed.decode and before.engine == after.engine:
            assert after.speed.decode
            assert after.speed.decode.low >= before.speed.decode.low * 0.9999, grown


@QUICK
@given(picked, nodes_of, cards_of, st.sampled_from(sorted(CARDS)))
def test_another_gpu_of_any_kind_never_gives_a_worse_plan(
    model: Any, nodes: list[tuple[int, int]], cards: list[str], more: str
) -> None:
    """It may stay unused. With the first GPU the engine is another."""
    if not cards:
        return
    before, after = (plan(model, unequal(nodes, found)) for found in (cards, [*cards, more]))
    assert served(after) >= served(before)
    sizes = ("context", "kt_method", "gpu_prefill_threshold", "kv_tokens", "chunked_prefill_size")
    alike = all(before.value(name) == after.value(name) for name in sizes)
    if before.fits and alike and before.engine == after.engine and before.speed.decode:
        assert after.speed.decode
        assert after.speed.decode.low >= before.speed.decode.low * 0.9999


@QUICK
@given(picked, nodes_of, cards_of, st.integers(1, 1024), st.floats(0.5, 8))
def test_limits_of_a_cgroup_hold_over_all_nodes_together(
    model: Any, nodes: list[tuple[int, int]], cards: list[str], limit: int, quota: float
) -> None:
    server = unequal(nodes, cards)
    total = server.memory.total
    memory = replace(server.memory, limit=limit * GIB, available=min(total, limit * GIB))
    made = plan(model, replace(server, memory=memory, cpu=replace(server.cpu, quota=quota)))
    host = [p for p in made.pools if p.name == "RAM" or p.name.startswith("node")]
    if made.fits:
        assert sum(p.used + p.margin for p in host) <= min(total, limit * GIB)
        assert all(p.used + p.margin <= p.capacity for p in host)
    if made.value("kt_method"):
        assert made.value("cpu_threads") <= max(1, int(quota))


def test_a_small_node_is_left_unused_and_said_to_be() -> None:
    r1 = next(m for m in MODELS if m[0].name == "Qwen3-235B-A22B")
    one = plan(r1, unequal([(600, 32)], ["RTX 5090", "RTX 5090"]))
    two = plan(r1, unequal([(600, 32), (64, 32)], ["RTX 5090", "RTX 5090"]))
    assert one.fits and two.fits
    assert two.value("numa_nodes") == (0,)
    assert "small node" in two.decision("threadpool_count").why


def test_a_weaker_idle_gpu_takes_no_method_away() -> None:
    fp8 = next(m for m in MODELS if m[0].quantization.method == "fp8")
    size = {"ctx_size": 4096, "max_total_tokens": 4096}
    alone = plan(fp8, unequal([(1500, 48)], ["RTX 5090"]), **size)
    beside = plan(fp8, unequal([(1500, 48)], ["RTX 5090", "RTX 3090"]), **size)
    asked = plan(fp8, unequal([(1500, 48)], ["RTX 3090", "RTX 5090"]), tp=1, **size)
    assert alone.value("kt_method") == beside.value("kt_method") == asked.value("kt_method")
    assert alone.fits and beside.fits and asked.fits
    assert beside.value("gpus") == (0,) and asked.value("gpus") == (1,)
    assert "not used: GPU1 (NVIDIA RTX 3090)" in beside.decision("gpus").why
    assert beside.speed.decode == alone.speed.decode


def test_a_slice_of_a_gpu_has_a_slice_of_its_speed() -> None:
    whole = Gpu(0, "NVIDIA H100 80GB HBM3", "nvidia", 80 * GIB, 79 * GIB, capability=(9, 0))
    part = replace(whole, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", memory=10 * GIB, mig=True)
    server = unequal([(64, 8)], [])
    made = completed(replace(server, gpus=(part, replace(whole, index=1))), read_gpus())
    assert made.gpus[0].gbs == (made.gpus[1].gbs or 0) / 8
    assert made.gpus[0].gops == (made.gpus[1].gops or 0) / 7


def test_what_no_cpu_method_reads_is_on_the_gpu_whole_or_refused() -> None:
    seen = set()
    for on, server in machines().items():
        for preset in load_presets():
            for variant in (None, *preset.variants):
                try:
                    model = preset_model(preset, variant)
                except KtError:
                    continue
                made = plan((model, preset.hints), server)
                if made.engine != "sglang" or made.value("kt_method") or not model.experts:
                    continue
                if made.fits:
                    assert made.value("gpu_experts") == model.experts.count, (on, model.name)
                else:
                    seen.add(model.quantization.method)
    arm = replace(unequal([(960, 72)], ["RTX 5090"], isa=("asimd", "sve")))
    for model in MODELS:
        made = plan(model, arm)
        if made.engine == "sglang" and made.fits and model[0].experts:
            assert made.value("gpu_experts") == model[0].experts.count
    assert "gguf" in seen
