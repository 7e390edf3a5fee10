"""Adapters beside a model under SGLang: what they take, and what they rule out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kt_cli.core.adapter import Adapter
from kt_cli.core.machine import Machine
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB
from kt_cli.options import RunOptions
from tests.core.builders import AVX2
from tests.core.test_plan_sglang import FACTS, errors, items, qwen30, server

TUNED = Adapter("mine", "/a", 8, experts=10**9, others=10**8)
PLAIN = replace(TUNED, experts=0)


def plan(adapter: Adapter = TUNED, hardware: Machine | None = None, **wishes: Any) -> Plan:
    wanted = RunOptions(model="m", lora="mine=/a", **wishes)
    return plan_run(hardware or server(), qwen30(), wanted, FACTS, adapter=adapter)


def test_an_adapter_takes_memory_on_both_sides() -> None:
    made = plan(hardware=server(gpus=2), tp=2)
    assert items(made, "GPU1")["LoRA"] == 10**8 // 2
    assert items(made, "node0")["LoRA"] == items(made, "node1")["LoRA"] == 10**9 // 2


def test_tuned_experts_stay_on_the_cpu_however_large_the_gpu() -> None:
    made = plan(hardware=server(vram=94 * GIB))
    assert made.fits
    assert (made.value("kt_method"), made.value("gpu_experts")) == ("BF16", 0)
    assert made.value("gpu_prefill_threshold") is None
    assert made.value("disable_cuda_graph") is True
    assert "CUDA graphs" not in items(made, "GPU0")


def test_an_adapter_of_attention_alone_rules_nothing_out() -> None:
    made = plan(PLAIN, hardware=server(vram=94 * GIB))
    assert made.value("kt_method") is None
    assert made.value("disable_cuda_graph") is None
    assert items(made, "GPU0")["LoRA"] == 10**8


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"gpu_experts": 4}, "GPU experts beside an adapter"),
        ({"gpu_prefill_threshold": 1024}, "layer-wise prefill beside an adapter"),
        ({"max_running_requests": 1}, "one request at once"),
        ({"kt_method": "LLAMAFILE", "weights_path": "/w"}, "LLAMAFILE cannot serve the adapter"),
        ({"engine": "embedded"}, "--lora is not for the embedded engine"),
    ],
)
def test_what_an_adapter_rules_out_is_refused(wishes: dict[str, Any], said: str) -> None:
    assert any(said in what for what in errors(plan(**wishes)))


def test_a_cpu_without_the_training_kernels_is_refused() -> None:
    made = plan(hardware=server(isa=AVX2))
    assert "BF16 cannot serve the adapter" in errors(made)
    assert "avx512_bf16" in made.problems[0].why


def test_experts_alone_are_not_enough() -> None:
    assert any("no tensors but" in what for what in errors(plan(replace(TUNED, others=0))))
