from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.plan_sft import plan_sft
from kt_cli.core.sft_ledger import SftCase
from kt_cli.core.units import GIB
from kt_cli.engines.facts import read_sft
from tests.core.builders import AMX, AVX2, machine
from tests.core.test_plan_sglang import qwen30

FACTS = read_sft()


def server(gpus: int = 1, vram: int = 24, ram: int = 256, isa: tuple[str, ...] = AMX) -> Machine:
    return machine(ram=ram * GIB, cores=64, gpus=gpus, vram=vram * GIB, isa=isa)


def plan(hardware: Machine | None = None, model: Model | None = None, **other: Any) -> Plan:
    return plan_sft(SftCase(hardware or server(), model or qwen30(), FACTS, **other))


def items(made: Plan, pool: str) -> dict[str, int]:
    return {i.name: i.bytes for p in made.pools if p.name == pool for i in p.items}


def test_experts_stay_frozen_in_ram_and_all_else_is_on_the_gpu() -> None:
    made, model = plan(), qwen30()
    dense = sum(v for k, v in model.parameters.items() if k != "routed_experts")
    gpu = items(made, "GPU0")
    weights = sum(gpu[k] for k in ("attention", "embedding", "router, norms"))
    assert made.fits
    assert weights == 2 * dense
    assert items(made, "RAM")["experts"] == 2 * model.parameters["routed_experts"]


def test_adapters_take_rank_times_both_sides_of_every_matrix() -> None:
    made = plan()
    sides = 2 * (2048 + 32 * 128) + 2 * (2048 + 4 * 128)
    assert items(made, "GPU0")["LoRA, optimizer"] == 48 * 8 * sides * 16
    assert items(made, "RAM")["LoRA, optimizer"] == 48 * 128 * 8 * 3 * (2048 + 768) * 8


def test_longer_samples_take_activations_in_proportion() -> None:
    short, long = plan(cutoff=512), plan(cutoff=1024)
    assert 2 * items(short, "GPU0")["activations"] == items(long, "GPU0")["activations"]


def test_activations_are_recomputed_where_memory_cannot_keep_them() -> None:
    assert plan(server(vram=24)).value("activations") == "kept"
    tight = plan(server(vram=10))
    assert tight.fits
    assert tight.value("activations") == "recomputed"


def test_more_gpus_share_the_weights_and_each_runs_a_sample() -> None:
    one, two = plan(server(vram=24)), plan(server(gpus=2, vram=7))
    assert (one.value("gpus"), two.value("gpus")) == (1, 2)
    assert items(two, "GPU1")["attention"] * 2 == items(one, "GPU0")["attention"]
    assert items(two, "RAM")["processes"] > items(one, "RAM")["processes"]


def test_int8_after_a_conversion_where_bf16_does_not_fit_the_ram() -> None:
    made = plan(server(ram=56))
    assert made.fits
    assert made.value("kt_method") == "INT8"
    assert any("converted" in p.what for p in made.problems)


def test_what_does_not_fit_names_ways_out_and_what_is_missing() -> None:
    made = plan(server(vram=6, ram=24))
    wheres = [p.what.split(" by ")[0].rpartition(" ")[2] for p in made.problems if p.fixes]
    assert not made.fits
    assert wheres == ["GPU0", "RAM"]
    assert made.problems[-1].fixes[-1].action.startswith("+")


@pytest.mark.parametrize(
    ("hardware", "model", "said"),
    [
        (server(gpus=0), qwen30(), "needs an NVIDIA GPU"),
        (replace(server(), gpus=(Gpu(0, "W7900", "amd", 1, 1),)), qwen30(), "needs an NVIDIA GPU"),
        (server(isa=AVX2), qwen30(), "training kernels do not run here"),
        (server(), replace(qwen30(), architecture="Llama4ForX"), "cannot be fine-tuned"),
        (server(), replace(qwen30(), architecture="DeepseekV32ForX"), "cannot be fine-tuned"),
    ],
)
def test_what_cannot_be_fine_tuned_is_refused(hardware: Machine, model: Model, said: str) -> None:
    made = plan(hardware, model)
    assert not made.fits
    assert said in made.problems[0].what


def test_a_format_the_training_kernels_do_not_read_is_refused_with_a_way_out() -> None:
    model = qwen30()
    stored = replace(model, quantization=replace(model.quantization, method="gptq"))
    made = plan(model=stored)
    assert "stored as gptq" in made.problems[0].what
    assert made.problems[0].fixes[0].action == "a BF16 checkpoint of the model"
