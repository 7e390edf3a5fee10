from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kt_cli.catalog.names import lookup
from kt_cli.catalog.presets import load_presets, preset_model
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Disk, Engine, Gpu, Machine, Measured
from kt_cli.core.model import Attention, Experts, Model, Quantization
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB, gb
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from kt_cli.ui.plan import picture
from tests.core.builders import AMX, AVX2, machine

FACTS = read_facts()


def server(gpus: int = 1, vram: int = 24 * GIB, ram: int = 1024 * GIB, **other: Any) -> Machine:
    made = machine(ram=ram, cores=64, nodes=2, gpus=gpus, vram=vram, isa=other.pop("isa", AMX))
    return replace(made, engines=(Engine("sglang", "0.7.2"),), **other)


def qwen30(method: str = "bf16") -> Model:
    """Qwen3-30B-A3B: 48 layers, 128 experts of 2048 × 768, top 8."""
    experts = Experts(128, 8, 2048, 768, tuple(range(48)))
    counts: dict[Any, int] = {
        "attention": 48 * (2048 * 4096 * 2 + 2048 * 512 * 2),
        "routed_experts": 48 * 128 * experts.parameters_each,
        "router": 48 * 128 * 2048,
        "norm": 97 * 2048,
        "embedding": 151936 * 2048,
        "lm_head": 151936 * 2048,
    }
    width = {"bf16": 2, "fp8": 1}[method]
    sizes = {k: v * (width if k == "routed_experts" else 2) for k, v in counts.items()}
    return Model(
        name="Qwen3-30B-A3B",
        architecture="Qwen3MoeForCausalLM",
        layers=48,
        hidden=2048,
        vocab=151936,
        context=40960,
        dtype="bf16",
        attention=Attention("gqa", 32, 4, 128, 128, 48),
        bytes=sizes,
        experts=experts,
        quantization=Quantization(method),
        parameters=counts,
    )


def plan(
    hardware: Machine | None = None,
    model: Model | None = None,
    hints: Hints | None = None,
    **wishes: Any,
) -> Plan:
    wanted = RunOptions(model="m", **wishes)
    return plan_run(hardware or server(), model or qwen30(), wanted, FACTS, hints=hints)


def items(made: Plan, pool: str) -> dict[str, int]:
    return {i.name: i.bytes for p in made.pools if p.name == pool for i in p.items}


def errors(made: Plan) -> list[str]:
    return [p.what for p in made.problems if p.severity == "error"]


def test_one_gpu_expert_in_bf16_takes_nine_mebibytes_a_layer() -> None:
    made = plan(gpu_experts=1)
    assert items(made, "GPU0")["GPU experts"] == 48 * 9 * 2**20


def test_the_prefill_slot_is_one_layer_of_experts() -> None:
    made = plan()
    assert made.value("gpu_prefill_threshold") is not None
    assert items(made, "GPU0")["prefill slot"] == 128 * 9 * 2**20 + FACTS.sglang.nccl


def test_all_experts_stay_in_ram_however_many_are_on_the_gpu() -> None:
    few, many = plan(gpu_experts=1), plan(gpu_experts=16)
    assert items(few, "node0")["experts"] == items(many, "node0")["experts"]
    assert items(few, "node0")["experts"] == 48 * 128 * 9 * 2**20 // 2


def test_kv_cache_of_grouped_attention() -> None:
    made = plan(ctx_size=1000, max_total_tokens=1000)
    assert items(made, "GPU0")["KV cache"] == 1000 * 48 * 4 * (128 + 128) * 2


def test_kv_heads_and_weights_are_split_over_gpus() -> None:
    one = plan(ctx_size=1000, max_total_tokens=1000)
    two = plan(server(gpus=2), ctx_size=1000, max_total_tokens=1000)
    assert two.value("tp") == 2
    assert items(two, "GPU1")["KV cache"] * 2 == items(one, "GPU0")["KV cache"]
    assert items(two, "GPU1")["attention"] * 2 == items(one, "GPU0")["attention"]


def test_the_checkpoints_own_format_is_taken_without_conversion() -> None:
    made = plan(model=qwen30("fp8"))
    assert made.value("kt_method") == "FP8"
    assert "no conversion" in made.decision("kt_method").why


def test_a_conversion_is_offered_where_bf16_does_not_fit() -> None:
    made = plan(server(ram=56 * GIB))
    assert (made.value("kt_method"), made.fits) == ("BF16", False)
    assert "--kt-method AMXINT8" in [f.flag for p in made.problems for f in p.fixes]
    converted = plan(server(ram=56 * GIB), kt_method="AMXINT8")
    assert converted.fits
    assert any("converted" in p.what for p in converted.problems)


def test_more_ram_changes_nothing_of_what_ran_with_less() -> None:
    """A plan never turns to another format because there is room for it."""
    methods = {plan(server(ram=gib * GIB)).value("kt_method") for gib in (40, 56, 80, 2048)}
    assert methods == {"BF16"}


def test_amxint4_is_never_chosen_unasked() -> None:
    made = plan(server(ram=36 * GIB))
    assert made.value("kt_method") != "AMXINT4"
    assert not made.fits
    offered = [f.flag for p in made.problems for f in p.fixes]
    assert "--kt-method AMXINT4" in offered


def test_amxint4_asked_for_is_kept_with_its_caveat() -> None:
    made = plan(kt_method="AMXINT4")
    assert made.decision("kt_method").source == "flag"
    assert any("scale" in p.why for p in made.problems)


def test_a_method_the_cpu_lacks_is_refused_with_alternatives() -> None:
    made = plan(server(isa=AVX2), kt_method="AMXINT8")
    assert errors(made) == ["AMXINT8 is impossible here"]
    assert made.problems[0].fixes[0].flag == "--kt-method BF16"


def test_fp8_on_an_ampere_card_is_refused() -> None:
    ampere = (Gpu(0, "RTX 3090", "nvidia", 24 * GIB, 24 * GIB, capability=(8, 6)),)
    made = plan(server(gpus=1), model=qwen30("fp8"), kt_method="FP8")
    assert made.fits
    refused = plan(replace(server(), gpus=ampere), qwen30("fp8"), kt_method="FP8")
    assert "impossible" in errors(refused)[0]
    assert "8.6" in refused.problems[0].why


def test_threads_leave_a_core_for_the_queue_and_split_evenly() -> None:
    made = plan()
    assert made.value("cpu_threads") % 2 == 0
    assert made.value("cpu_threads") < 64
    assert made.value("numa_nodes") == (0, 1)


def test_an_overbooked_host_gets_fewer_threads_beside_the_queue() -> None:
    measured = replace(server().measured, stolen={16: 0.0, 32: 0.02, 64: 0.3})
    made = plan(server(measured=measured))
    assert made.value("cpu_threads") == 30
    assert "took 30% of 64 CPUs' time: 32 ran freely" in made.decision("cpu_threads").why
    assert plan(server(measured=measured), cpu_threads=60).value("cpu_threads") == 60
    half = plan(server(measured=measured), numa_nodes=(0,))
    assert half.value("cpu_threads") == 31 - 1
    assert "hypervisor" not in half.decision("cpu_threads").why


def test_pools_are_fewer_where_the_width_does_not_split() -> None:
    model = qwen30()
    narrow = replace(model, experts=Experts(128, 8, 2048, 1056, tuple(range(48))))
    made = plan(model=narrow, kt_method="AMXINT8", weights_path="/w")
    assert made.value("threadpool_count") == 1
    assert "does not split" in made.decision("threadpool_count").why


def test_a_node_without_cores_is_refused() -> None:
    assert "cannot run experts" in errors(plan(numa_nodes=(0, 7)))[0]


def test_tp_that_heads_or_the_model_forbid_is_refused() -> None:
    assert errors(plan(server(gpus=3), tp=3)) == ["tp 3 is impossible"]
    limited = plan(server(gpus=8), hints=Hints(tp_max=4))
    assert limited.value("tp") == 4


def test_tp_beyond_the_gpus_is_refused() -> None:
    assert errors(plan(tp=2)) == ["tp 2 is impossible"]


def test_everything_on_the_gpu_leaves_kt_kernel_out() -> None:
    made = plan(server(vram=94 * GIB))
    assert made.value("kt_method") is None
    assert made.value("gpu_experts") == 128
    assert "experts" not in items(made, "node0")


def test_gpu_experts_beyond_the_model_are_refused() -> None:
    assert "has 128 experts" in errors(plan(gpu_experts=129))[0]


def test_a_threshold_beyond_the_chunk_is_refused() -> None:
    made = plan(gpu_prefill_threshold=8192, chunked_prefill_size=4096)
    assert "never reached" in errors(made)[0]


def test_layerwise_prefill_of_a_converted_format_is_refused() -> None:
    made = plan(kt_method="AMXINT8", weights_path="/w", gpu_prefill_threshold=1024)
    assert "whole layers" in errors(made)[0]


def test_amd_devices_are_refused_and_the_embedded_engine_named() -> None:
    amd = (Gpu(0, "W7900", "amd", 48 * GIB, 48 * GIB),)
    asked = plan(replace(server(), gpus=amd))
    assert asked.engine == "embedded"
    forced = plan(replace(server(), gpus=amd), engine="sglang")
    assert "amd" in errors(forced)[0]
    assert forced.problems[0].fixes[0].flag == "--engine embedded"


def test_without_sglang_the_gpu_is_said_to_be_unused() -> None:
    made = plan(replace(server(), engines=()))
    assert made.engine == "embedded"
    assert any("GPU is not used" in p.what for p in made.problems)


def test_a_fixed_fraction_that_cannot_hold_the_rest_is_refused() -> None:
    made = plan(mem_fraction=0.1)
    assert not made.fits


def test_the_fraction_covers_weights_and_cache_and_leaves_the_workspace() -> None:
    made = plan()
    gpu = items(made, "GPU0")
    start = 24 * GIB - gpu["CUDA context"]
    dynamic = gpu["workspace"] + gpu["CUDA graphs"] + gpu["FlashInfer"]
    dynamic += gpu.get("prefill slot", 0)
    static = sum(gpu.values()) - dynamic - gpu["CUDA context"]
    share = made.value("mem_fraction")
    assert static <= share * start
    assert dynamic <= (1 - share) * start


def test_too_many_deferred_experts_get_a_warning() -> None:
    assert any("deferred" in p.what for p in plan(deferred_experts=6).problems)
    assert plan().value("deferred_experts") == 0


@pytest.mark.parametrize("vram", [6, 8, 12])
def test_a_small_gpu_gets_less_context_or_ways_out(vram: int) -> None:
    made = plan(server(vram=vram * GIB))
    assert made.fits or made.problems[0].fixes


def test_two_gpus_are_taken_where_one_would_hold_less_of_the_cache() -> None:
    """Both hold all experts beside the full context; the rest of the cache decides."""
    one, two = plan(server(gpus=1, vram=68 * GIB)), plan(server(gpus=2, vram=68 * GIB))
    assert one.value("kt_method") is two.value("kt_method") is None
    assert two.value("kv_tokens") > one.value("kv_tokens")
    assert two.value("tp") == 2


def test_fewer_gpus_are_taken_where_ram_is_short_for_their_processes() -> None:
    plans = (plan(server(gpus=4, ram=gib * GIB), kt_method="BF16") for gib in range(54, 120))
    tight = next(made for made in plans if made.fits)
    assert tight.value("tp") < plan(server(gpus=4), kt_method="BF16").value("tp")
    assert "of RAM" in tight.decision("tp").why


def test_too_many_gpu_experts_are_answered_with_how_many_fit() -> None:
    made = plan(gpu_experts=100)
    flag = next(f.flag for p in made.problems for f in p.fixes if "--gpu-experts" in f.flag)
    assert plan(gpu_experts=int(flag.split()[1])).fits
    assert not plan(gpu_experts=int(flag.split()[1]) + 1).fits


def test_a_gpu_that_is_too_small_is_answered_with_other_engines_and_more_gpus() -> None:
    made = plan(server(vram=5 * GIB))
    ways = {fix.action: fix for fix in made.problems[0].fixes}
    assert list(ways)[-2:] == ["2 such GPUs", list(ways)[-1]]
    assert list(ways)[-1].startswith("+")
    assert ways["the embedded engine, all on the CPU"].flag == "--engine embedded"
    assert plan(server(vram=5 * GIB), engine="embedded").fits
    assert plan(server(gpus=2, vram=5 * GIB)).fits


def test_converted_experts_take_disk_until_their_folder_is_given() -> None:
    disk = (Disk("/", 10**12, 9 * 10**11),)
    made = plan(replace(server(ram=56 * GIB), disks=disk), kt_method="AMXINT8")
    held = items(made, "disk")
    assert made.value("kt_method") == "AMXINT8"
    assert held["download"] == qwen30().total_bytes
    assert held["conversion"] == 2 * items(made, "node0")["experts"]
    given = plan(replace(server(ram=56 * GIB), disks=disk), kt_method="AMXINT8", weights_path="/w")
    assert "conversion" not in items(given, "disk")


def test_flashinfers_workspace_counts_where_it_is_used() -> None:
    assert items(plan(), "GPU0")["FlashInfer"] == 384 * 2**20
    assert "FlashInfer" not in items(plan(attention_backend="triton"), "GPU0")


def test_nccl_counts_once_a_gpu() -> None:
    one, two = plan(kt_method="AMXINT8", weights_path="/w"), plan(server(gpus=2))
    nccl = FACTS.sglang.nccl
    assert items(two, "GPU0")["CUDA context"] == items(one, "GPU0")["CUDA context"] + nccl
    assert items(two, "GPU0")["prefill slot"] == 128 * 9 * 2**20 // 2


def test_what_the_cpu_never_computes_at_once_needs_no_buffers() -> None:
    slot = items(plan(chunked_prefill_size=8192), "node0")
    whole = items(plan(chunked_prefill_size=8192, kt_method="AMXINT8", weights_path="/w"), "node0")
    assert whole["CPU scratch"] > 5 * slot["CPU scratch"]
    assert whole["pinned"] == 8192 * 2 * (4 * 2048 + 20 * 8)


def test_a_busy_host_is_warned_of_and_not_refused() -> None:
    busy = replace(server().memory, available=40 * GIB)
    made = plan(replace(server(), memory=busy))
    assert made.fits
    assert any("freed by other programs" in p.what for p in made.problems)


def test_a_conversion_is_shown_beside_what_runs_as_it_is() -> None:
    measured = Measured({64: 400.0}, {"fp32": 9000.0}, gpu_gbs=1000.0)
    made = plan(server(measured=measured))
    shown = [p for p in made.problems if "AMXINT8" in p.what]
    assert made.value("kt_method") == "BF16" and [p.severity for p in shown] == ["info"]
    assert "--kt-method AMXINT8" in shown[0].why


def test_gpt_oss_gets_the_context_that_a_small_gpu_holds() -> None:
    found = lookup("gpt-oss-20b", load_presets())
    assert found
    for vram, least in ((16, 16384), (24, 65536)):
        made = plan(server(vram=vram * GIB), preset_model(*found), found[0].hints)
        assert made.fits and made.engine == "sglang"
        assert made.value("context") >= least
        assert made.value("attention_backend") == "triton"
    tiny = plan(server(vram=12 * GIB), preset_model(*found), found[0].hints)
    assert not tiny.fits
    assert "all 32 experts of a layer must be on the GPU" in tiny.problems[0].why


def test_the_picture_and_the_problem_name_the_same_figure() -> None:
    for made in (plan(server(ram=40 * GIB)), plan(server(vram=5 * GIB))):
        drawn = "\n".join(map(str, picture(made)))
        lacking = [gb(pool.short) for pool in made.pools if pool.short]
        assert lacking
        for figure in lacking:
            assert f"{figure} too much" in drawn
            assert any(figure in p.what for p in made.problems if p.severity == "error")
