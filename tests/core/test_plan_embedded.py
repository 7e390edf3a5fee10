from __future__ import annotations

from dataclasses import replace

import pytest

from kt_cli.core.engine import Facts
from kt_cli.core.machine import Engine
from kt_cli.core.model import Attention, Quantization
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import Origins, plan_run
from kt_cli.core.units import GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import AMX, machine, small_model

FACTS = read_facts()


def plan(options: RunOptions | None = None, facts: Facts = FACTS, **hardware: object) -> Plan:
    wanted = options or RunOptions(model="small")
    return plan_run(machine(**hardware), small_model(), wanted, facts)  # type: ignore[arg-type]


def item(made: Plan, name: str) -> int:
    return sum(i.bytes for p in made.pools for i in p.items if i.name == name)


def test_weights_are_parameters_times_the_compute_type() -> None:
    made = plan()
    assert made.value("compute_dtype") == "fp32"
    assert item(made, "experts") == 30 * 8 * 3 * 576 * 768 * 4
    assert item(made, "attention") == 30 * (2 * 576 * 576 + 2 * 576 * 192) * 4


def test_a_cpu_with_bf16_arithmetic_halves_the_weights() -> None:
    made = plan(isa=AMX)
    assert made.value("compute_dtype") == "bf16"
    assert item(made, "experts") == 30 * 8 * 3 * 576 * 768 * 2


def test_kv_cache_counts_every_request_at_full_context() -> None:
    made = plan()
    assert made.value("kv_tokens") == 4 * 8192
    assert item(made, "KV cache") == 4 * 8192 * 30 * 3 * (64 + 64) * 4


def test_little_memory_shortens_the_context_and_says_so() -> None:
    made = plan(ram=3 * GIB)
    assert made.fits
    assert made.value("kv_tokens") < 4 * 8192
    tight = plan(ram=int(2.75 * GIB))
    assert tight.fits
    assert tight.value("context") < 8192
    assert "memory" in tight.decision("context").why


def test_what_does_not_fit_lists_fixes_cheapest_first() -> None:
    made = plan(RunOptions(model="small", ctx_size=8192, max_running_requests=4), ram=GIB)
    assert not made.fits
    (problem,) = made.problems
    assert problem.fixes[-1].action.startswith("+")
    assert problem.fixes[-1].effect == "fits"


def test_a_flag_stays_and_is_named_as_source() -> None:
    made = plan(RunOptions(model="small", ctx_size=1000, cpu_threads=1))
    assert made.decision("context").value == 1000
    assert made.decision("context").source == "flag"
    assert made.value("cpu_threads") == 1


OVERBOOKED = {4: 0.0, 8: 0.01, 16: 0.012, 32: 0.029, 64: 0.34}


def test_no_more_threads_than_the_hypervisor_lets_run() -> None:
    free = plan(cores=64, ram=64 * GIB)
    made = plan(cores=64, ram=64 * GIB, stolen=OVERBOOKED)
    assert (free.value("cpu_threads"), made.value("cpu_threads")) == (64, 32)
    why = "the hypervisor took 34% of 64 CPUs' time: 32 ran freely"
    assert made.decision("cpu_threads").why == why
    assert "hypervisor" not in free.decision("cpu_threads").why
    assert item(made, "threads") == 32 * FACTS.embedded.thread_bytes
    asked = plan(RunOptions(model="small", cpu_threads=48), cores=64, stolen=OVERBOOKED)
    assert (asked.value("cpu_threads"), asked.decision("cpu_threads").source) == (48, "flag")
    assert item(asked, "threads") == 48 * FACTS.embedded.thread_bytes


def test_what_was_stolen_from_more_cores_than_may_be_used_does_not_matter() -> None:
    made = plan(cores=16, stolen=OVERBOOKED)
    assert made.value("cpu_threads") == 16
    assert "hypervisor" not in made.decision("cpu_threads").why


def test_origins_name_environment_and_configuration() -> None:
    origins = Origins({"port": "environment"}, {"port": "KT_SERVER_PORT"})
    wanted = RunOptions(model="small", port=1234)
    made = plan_run(machine(), small_model(), wanted, FACTS, origins)
    assert made.decision("port").source == "environment"
    assert "KT_SERVER_PORT" in made.decision("port").why


def test_a_busy_host_is_a_warning_not_a_refusal() -> None:
    made = plan(free=GIB)
    assert made.fits
    assert [p.severity for p in made.problems] == ["warning"]


def test_a_context_beyond_the_model_is_refused() -> None:
    made = plan(RunOptions(model="small", ctx_size=100_000))
    assert not made.fits
    assert "more than the model" in made.problems[0].what


def test_experts_stay_on_the_cpu_when_the_rest_is_on_a_gpu() -> None:
    made = plan(RunOptions(model="small", device="cuda"), gpus=1)
    gpu, ram = made.pools
    assert "experts" not in [i.name for i in gpu.items]
    assert "experts" in [i.name for i in ram.items]


def test_cuda_takes_memory_of_the_host_too() -> None:
    alone = plan(RunOptions(model="small", device="cpu"), gpus=1)
    beside = plan(RunOptions(model="small", device="cuda"), gpus=1)
    assert item(alone, "CUDA on the host") == 0
    assert item(beside, "CUDA on the host") == FACTS.embedded.gpu_host_bytes > 0


def test_torch_built_with_cuda_takes_more_of_the_host_used_or_not() -> None:
    narrow = replace(machine(), engines=(Engine("torch", "2.13.0+cpu"),))
    wide = replace(machine(), engines=(Engine("torch", "2.13.0+cu130"),))
    made = [plan_run(m, small_model(), RunOptions(model="small"), FACTS) for m in (narrow, wide)]
    more = item(made[1], "Python, torch") - item(made[0], "Python, torch")
    assert more == FACTS.embedded.cuda_build_bytes > 0


def test_activations_of_a_gpu_count_its_type_and_the_mask_of_a_long_context() -> None:
    made = [plan(RunOptions(model="small", device="cuda", ctx_size=c), gpus=1) for c in (1, 1001)]
    assert item(made[1], "workspace") - item(made[0], "workspace") == 512 * 3 * 1000


def test_buffers_of_our_kernels_grow_with_experts_and_those_of_torch_are_not_there() -> None:
    hardware = replace(machine(), engines=(Engine("kt_moe", "0.1"),))
    made = plan_run(hardware, small_model(), RunOptions(model="small"), FACTS)
    assert item(made, "expert buffers") == (512 * 2 + 8 * 8) * 2 * (2 * 576 + 768)
    assert item(plan(), "expert buffers") == 0


LATENT = Attention("mla", 16, 16, 192, 128, 30, kv_lora_rank=512, rope_dim=64)


def with_latent(transformers: str, gpus: int = 0, **options: object) -> Plan:
    hardware = replace(machine(gpus=gpus), engines=(Engine("transformers", transformers),))
    model = replace(small_model(), attention=LATENT)
    return plan_run(hardware, model, RunOptions(model="small", **options), FACTS)  # type: ignore[arg-type]


def test_mla_is_cached_as_full_heads_before_transformers_5_15_then_as_the_latent() -> None:
    sizes = {"max_total_tokens": 2048, "ctx_size": 2048}
    assert item(with_latent("5.14.2", **sizes), "KV cache") == 2048 * 30 * 16 * (192 + 128) * 4
    for version in ("5.15.0", "5.23.0.dev0", "6.0.0"):
        assert item(with_latent(version, **sizes), "KV cache") == 2048 * 30 * (512 + 64) * 4


def test_a_latent_is_expanded_for_all_of_a_context_and_the_cpu_keeps_scores() -> None:
    def more(gpus: int, device: str) -> int:
        short, long = (
            with_latent("5.15.0", gpus, ctx_size=size, device=device) for size in (2048, 2049)
        )
        return item(long, "workspace") - item(short, "workspace")

    assert more(0, "cpu") == 16 * ((2 * 192 - 64 + 128) * 4 + 512 * 4)
    assert more(1, "cuda") == 16 * (2 * 192 - 64 + 128) * 2 + 512 * 3


def test_a_context_is_shortened_by_what_attention_makes_of_it_too() -> None:
    hardware = machine(ram=int(3.6 * GIB))
    model = replace(small_model(), attention=LATENT)
    made = plan_run(hardware, model, RunOptions(model="small"), FACTS)
    assert made.fits
    assert 2048 < made.value("context") < 8192


def test_a_layer_is_loaded_where_the_cache_will_be() -> None:
    layer = 8 * 3 * 576 * 768 * 2
    little = RunOptions(model="small", ctx_size=16, max_running_requests=1)
    made = plan(little)
    later = item(made, "KV cache") + item(made, "workspace")
    assert item(made, "loading") == max(0, layer - later)
    assert item(plan(), "loading") == 0
    mapped = plan(replace(little, experts_backend="kt_moe"))
    assert item(mapped, "loading") == 0


def test_a_gpu_that_is_not_there_is_refused() -> None:
    made = plan(RunOptions(model="small", device="cuda:1"), gpus=1)
    assert not made.fits


@pytest.mark.parametrize("name", ["host", "port", "context", "max_running_requests", "kv_tokens"])
def test_decides_what_the_runtime_reads(name: str) -> None:
    assert plan().decision(name).why


def test_speed_is_a_range_below_the_roofline() -> None:
    made = plan()
    assert made.speed.decode is not None
    active = 30 * 2 * 3 * 576 * 768 * 4
    assert 0 < made.speed.decode.low < made.speed.decode.high < 46e9 / active


def test_the_engine_decides_the_type_itself_unless_it_is_asked_for() -> None:
    assert plan().value("dtype") == "auto"
    asked = plan(RunOptions(model="small", dtype="bf16"))
    assert (asked.value("dtype"), asked.decision("dtype").source) == ("bf16", "flag")


def test_our_kernels_hold_experts_in_bf16_where_the_rest_is_fp32() -> None:
    hardware = replace(machine(), engines=(Engine("kt_moe", "0.1"),))
    made = plan_run(hardware, small_model(), RunOptions(model="small"), FACTS)
    assert item(made, "experts") == 30 * 8 * 3 * 576 * 768 * 2
    exact = plan_run(hardware, small_model(), RunOptions(model="small", dtype="fp32"), FACTS)
    assert item(exact, "experts") == 30 * 8 * 3 * 576 * 768 * 4


def test_a_quantised_checkpoint_is_refused() -> None:
    model = replace(small_model(), quantization=Quantization("fp8", 8, 128))
    made = plan_run(machine(), model, RunOptions(model="small"), FACTS)
    assert "stored as fp8" in made.problems[0].what


def test_flags_of_another_engine_are_refused_not_dropped() -> None:
    made = plan(RunOptions(model="small", gpu_experts=4, tp=2))
    assert made.problems[0].what == "--gpu-experts, --tp is not for the embedded engine"


def test_a_cache_in_another_type_than_attention_is_refused() -> None:
    made = plan(RunOptions(model="small", kv_cache_dtype="fp8"))
    assert not made.fits
    assert made.problems[0].fixes[0].flag == "--kv-cache-dtype fp32"


def test_a_format_of_our_kernels_is_refused_beside_torchs_operator() -> None:
    made = plan(RunOptions(model="small", experts_backend="torch", kt_method="INT8"))
    assert "INT8 need our kernels" in made.problems[0].what
    assert plan(RunOptions(model="small", experts_backend="torch")).fits


def test_a_format_that_is_asked_for_is_held_beside_fp32() -> None:
    hardware = replace(machine(), engines=(Engine("kt_moe", "0.1"),))
    asked = RunOptions(model="small", dtype="fp32", kt_method="INT8")
    made = plan_run(hardware, small_model(), asked, FACTS)
    assert (made.value("compute_backend"), made.value("kt_method")) == ("kt_moe", "INT8")
    assert item(made, "experts") == 30 * 8 * 3 * 576 * 768


def test_kernels_that_cannot_run_are_not_planned_with() -> None:
    for engine, isa in (
        (Engine("kt_moe", "0.1", details={"available": "False"}), ("avx2", "fma")),
        (Engine("kt_moe", "0.1"), ("asimd", "sve")),
        (Engine("kt_moe", "0.1", problem="ImportError"), ("avx2", "fma")),
    ):
        hardware = replace(machine(isa=isa), engines=(engine,))
        made = plan_run(hardware, small_model(), RunOptions(model="small"), FACTS)
        assert made.value("compute_backend") == "torch"
