"""What holds for every machine and every wish."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kt_cli.catalog.presets import planned_presets, preset_model
from kt_cli.core.machine import STOLEN, Engine, Machine
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB
from kt_cli.core.what_if import completed
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import AMX, AVX2, machine

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
    native = made.value("kt_method") not in ("AMXINT8",)
    return (
        True,
        native,
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
