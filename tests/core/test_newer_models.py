"""What newer models bring: tables read by row, causal encoders, drafters, states, many experts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kt_cli.catalog.presets import load_presets, preset_model
from kt_cli.core.facts import SglangFacts
from kt_cli.core.kv import kv_cost
from kt_cli.core.lookups import PAGE, lookup_seconds
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import AMX, machine

FACTS = read_facts()
PRESETS = {p.name: p for p in load_presets()}
SGLANG: SglangFacts = FACTS.sglang


def model(name: str, variant: str = "") -> Model:
    preset = PRESETS[name]
    found = next((v for v in preset.variants if v.name == variant), None)
    return preset_model(preset, found)


def server(ram: int = 2048, gpus: int = 1, vram: int = 96) -> Machine:
    found = machine(ram=ram * GIB, cores=32, gpus=gpus, vram=vram * GIB, isa=AMX)
    measured = replace(
        found.measured,
        read_gbs={1: 12.0, 32: 300.0},
        gops={"fp32": 4000.0, "bf16": 60000.0, "int8": 120000.0, "gpu_bf16": 250_000.0},
        gpu_gbs=1792.0,
        pcie_gbs=50.0,
        disk_gbs=7.0,
    )
    return replace(found, measured=measured)


def plan(found: Model, on: Machine | None = None, **asked: object) -> Plan:
    options = RunOptions(model=found.name, **{"engine": "sglang", **asked})  # type: ignore[arg-type]
    return plan_run(on or server(), found, options, FACTS)


def without_tables(found: Model) -> Model:
    bytes_, counts = dict(found.bytes), dict(found.parameters)
    del bytes_["lookup"], counts["lookup"]
    return replace(found, bytes=bytes_, parameters=counts, lookup_rows=0, lookup_row_bytes=0)


def memory(found: Plan) -> dict[str, list[tuple[str, int]]]:
    pools = (p for p in found.pools if p.name != "disk")
    return {p.name: [(i.name, i.bytes) for i in p.items] for p in pools}


# Tables read by row

TABLES = [("Qwen3.8-Flash-Next", "FP8", 51.2, 16), ("DeepSeek-V4.1-Flash", "", 202.8, 48)]


@pytest.mark.parametrize(("name", "variant", "gb", "rows"), TABLES)
def test_tables_take_no_memory_and_a_place_on_the_disk(
    name: str, variant: str, gb: float, rows: int
) -> None:
    found = model(name, variant)
    assert found.bytes["lookup"] / 1e9 == pytest.approx(gb, rel=2e-3)
    assert found.lookup_rows == rows
    with_them, without = plan(found), plan(without_tables(found))
    assert memory(with_them) == memory(without)
    assert with_them.decision("lookup_tables").value == "mapped"
    assert without.value("lookup_tables") is None
    assert found.total_bytes - without_tables(found).total_bytes == found.bytes["lookup"]


@pytest.mark.parametrize(("name", "variant", "gb", "rows"), TABLES)
def test_reading_rows_slows_the_lower_end_by_a_page_each(
    name: str, variant: str, gb: float, rows: int
) -> None:
    found = model(name, variant)
    slow, fast = plan(found).speed, plan(without_tables(found)).speed
    assert slow.decode and fast.decode and slow.prefill and fast.prefill
    seconds = rows * PAGE / 7e9
    assert lookup_seconds(found, server().measured) == pytest.approx(seconds)
    for with_rows, plain in ((slow.decode, fast.decode), (slow.prefill, fast.prefill)):
        assert 1 / with_rows.low == pytest.approx(1 / plain.low + seconds)
        assert with_rows.high == plain.high


def test_active_parameters_leave_tables_out() -> None:
    found = model("Qwen3.8-Flash-Next")
    assert found.active_parameters == without_tables(found).active_parameters < 8e9


# A causal encoder


def test_a_prompt_passes_the_encoder_alone() -> None:
    found = model("DeepSeek-V4.1-Flash")
    assert (found.prefill_layers, found.layers) == (20, 40)
    half, whole = plan(found).speed, plan(replace(found, prefill_layers=0)).speed
    assert half.decode == whole.decode
    assert half.prefill and whole.prefill
    assert 1.7 < half.prefill.high / whole.prefill.high <= 2.0


# Experts: many, narrow, in FP4


def test_896_experts_on_a_latent_are_counted_as_stored() -> None:
    found = model("Kimi-K3")
    experts = found.experts
    assert experts and (experts.count, experts.top_k, experts.hidden) == (896, 16, 3584)
    each = 3 * 3584 * 3072
    assert found.parameters["routed_experts"] == 92 * 896 * each
    assert found.bytes["routed_experts"] == 92 * 896 * each * 17 // 32  # 4 bits, a byte for each 32
    ram = [i for p in plan(found).pools for i in p.items if i.name == "experts"]
    assert sum(i.bytes for i in ram) == pytest.approx(found.bytes["routed_experts"], rel=0.01)


def test_experts_without_a_gate_have_two_matrices() -> None:
    experts = model("Nemotron-3-Super-120B-A12B").experts
    assert experts and experts.parameters_each == 2 * 1024 * 2688


@pytest.mark.parametrize(
    ("name", "variant", "method", "bits"),
    [("DeepSeek-V4.1-Flash", "", "mxfp4", 4.25), ("DeepSeek-V4-Flash-0731", "", "mxfp4", 4.25),
     ("Kimi-K3", "", "mxfp4", 4.25), ("Qwen3.8-Flash-Next", "NVFP4", "nvfp4", 4.5),
     ("GLM-5.3-Flash", "NVFP4", "nvfp4", 4.5)],
)  # fmt: skip
def test_experts_released_in_fp4_are_stored_in_fp4(
    name: str, variant: str, method: str, bits: float
) -> None:
    found = model(name, variant)
    assert found.quantization.method == method
    stored = 8 * found.bytes["routed_experts"] / found.parameters["routed_experts"]
    assert stored == pytest.approx(bits, rel=1e-3)


# States instead of a cache


@pytest.mark.parametrize(
    ("name", "layers", "state"),
    [("GLM-5.3-Flash", 34, 4 * 64 * 128 * 128 + 2 * 3 * 64 * 128 * 3),
     ("Kimi-K3", 69, 4 * 96 * 128 * 128 + 2 * 3 * 96 * 128 * 3),
     ("Nemotron-3-Super-120B-A12B", 40, 4 * 128 * 64 * 128 + 2 * (8192 + 2 * 8 * 128) * 3),
     ("Qwen3.8-Flash-Next", 36, 4 * 48 * 128 * 128 + 2 * (2 * 16 * 128 + 48 * 128) * 3)],
)  # fmt: skip
def test_recurrent_layers_keep_a_state_for_each_request(name: str, layers: int, state: int) -> None:
    attention = model(name).attention
    assert (attention.linear_layers, attention.linear_state_bytes) == (layers, state)
    cost = kv_cost(attention, 2)
    assert cost.request == layers * state
    assert cost.total(8192, 4) - cost.total(8192, 1) == 3 * layers * state


@pytest.mark.parametrize(
    ("name", "token"),
    [("Nemotron-3-Super-120B-A12B", 8192), ("Kimi-K3", 24 * 576 * 2),
     ("GLM-5.3-Flash", 11 * (512 * 2 + 132)), ("Gemma-4-26B-A4B", 5 * 2 * 2 * 512 * 2),
     ("Qwen3.8-Flash-Next", 12 * 2 * 2 * 256 * 2 + 12 * 132 // 4)],
)  # fmt: skip
def test_bytes_that_grow_with_every_token(name: str, token: int) -> None:
    assert kv_cost(model(name).attention, 2).token == token


def test_only_layers_of_latent_attention_keep_an_absorbed_copy() -> None:
    found = plan(model("GLM-5.3-Flash", "FP8"))
    assert gpu_items(found)["absorbed MLA"] == 11 * 512 * 64 * (256 + 256) * 2


def test_layers_with_a_window_have_heads_of_their_own() -> None:
    cost = kv_cost(model("Gemma-4-26B-A4B").attention, 2)
    assert (cost.window, cost.span) == (25 * 8 * 2 * 256 * 2, 1024)


# A drafter with experts of its own


def gpu_items(found: Plan) -> dict[str, int]:
    return {i.name: i.bytes for p in found.pools if p.name.startswith("GPU") for i in p.items}


@pytest.mark.parametrize("name", ["DeepSeek-V4-Flash-0731", "GLM-5.3-Flash"])
def test_a_drafter_is_counted_where_speculation_is_asked_for(name: str) -> None:
    found = model(name, "FP8" if name.startswith("GLM") else "")
    silent, drafting = plan(found), plan(found, speculative_algorithm="NEXTN")
    assert "draft" not in gpu_items(silent)
    assert gpu_items(drafting)["draft"] == found.bytes["draft"] > 0
    assert drafting.decision("speculative_algorithm").value == "NEXTN"


def test_a_drafter_is_split_over_gpus() -> None:
    found = model("DeepSeek-V4-Flash-0731")
    split = plan(found, server(gpus=2), speculative_algorithm="NEXTN", tp=2)
    assert gpu_items(split)["draft"] == -(-found.bytes["draft"] // 2)


# Engines that do not have them


@pytest.mark.parametrize("name", ["Kimi-K3", "DeepSeek-V4.1-Flash", "GLM-5.3-Flash"])
def test_an_architecture_that_no_engine_has_is_sized_and_an_error(name: str) -> None:
    sglang = Engine("sglang", "0.7.2")
    on = replace(server(), engines=(sglang,))
    found = plan_run(on, model(name), RunOptions(model=name), FACTS)
    assert (found.engine, found.fits) == ("sglang", False)
    assert any(name in p.what and "transformers" in p.why for p in found.problems)
    assert found.pools


def test_an_architecture_that_one_engine_has_is_planned_for_it() -> None:
    on = replace(server(), engines=(Engine("sglang", "0.7.2"),))
    found = plan_run(on, model("Hy3"), RunOptions(model="Hy3"), FACTS)
    assert (found.engine, found.fits) == ("embedded", True)


def test_the_embedded_engine_reads_tables_whole() -> None:
    found = model("Qwen3.8-Flash-Next")
    planned = plan_run(server(), found, RunOptions(model="x", engine="embedded"), FACTS)
    ram = next(p for p in planned.pools if p.name == "RAM")
    held = next(i.bytes for i in ram.items if i.name == "look-up tables")
    assert held == 2 * found.parameters["lookup"]
    assert planned.decision("lookup_tables").value == "ram"
