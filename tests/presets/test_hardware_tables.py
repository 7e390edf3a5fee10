"""The rough hardware tables of the KTransformers guides against the ledger.

The guide's inference table counts non-expert weights on the GPU, in bf16 but for Qwen3-235B, where
its 9 GB are one byte a weight (bf16 takes 16.0 GB), and a byte for each expert weight on the host.
KV cache, workspace and the engine itself, some 3 to 5 GB, are not in it. Its numbers for a prefill
slot count one layer of experts.
"""

from __future__ import annotations

import pytest

from kt_cli.catalog.presets import load_presets, preset_model
from kt_cli.core.ledger import computed_items
from kt_cli.core.methods import cpu_expert_bytes
from kt_cli.core.sglang_ledger import gpu_expert_bytes
from kt_cli.engines.facts import read_facts

PRESETS = {p.name: p for p in load_presets()}
FACTS = read_facts().sglang

ROUGH = [
    ("DeepSeek-V2-Lite", 2, 3, 15),
    ("Qwen3-30B-A3B", 2, 3, 30),
    ("Qwen3-235B-A22B", 1, 9, 225),
    ("DeepSeek-V3", 2, 35, 650),
]
"""Model, bytes of a non-expert weight, GB of GPU memory, GB of host memory."""


@pytest.mark.parametrize(("name", "width", "gpu", "host"), ROUGH)
def test_the_rough_starting_points(name: str, width: int, gpu: float, host: float) -> None:
    model = preset_model(PRESETS[name])
    method = FACTS.method("AMXINT8")
    assert method and model.experts
    dense = sum(item.bytes for item in computed_items(model, width, ""))
    assert dense / 1e9 == pytest.approx(gpu, rel=0.15)
    assert cpu_expert_bytes(method, model.experts) / 1e9 == pytest.approx(host, rel=0.15)


@pytest.mark.parametrize(("name", "slot"), [("Kimi-K2-Thinking", 9.0), ("MiniMax-M2.1", 3.6)])
def test_a_prefill_slot_is_one_layer_of_experts(name: str, slot: float) -> None:
    model = preset_model(PRESETS[name])
    assert model.experts
    size = gpu_expert_bytes(model, 1) * model.experts.count
    assert size / 1e9 == pytest.approx(slot, rel=0.15)


def test_671_billion_parameters_in_382_gb_of_ram() -> None:
    """Told for a Q4_K_M file; its experts are counted, which are 97 % of the model."""
    model = preset_model(PRESETS["DeepSeek-V3"])
    method = FACTS.method("LLAMAFILE")
    assert method and model.experts
    assert cpu_expert_bytes(method, model.experts) / 1e9 == pytest.approx(382, rel=0.15)
