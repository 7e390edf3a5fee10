"""Presets against figures published elsewhere than where their geometry comes from."""

from __future__ import annotations

import pytest

from kt_cli.catalog.names import ambiguity, lookup
from kt_cli.catalog.presets import load_presets, planned_presets, preset_model
from kt_cli.core.kv import kv_cost
from kt_cli.core.model import Model
from kt_cli.errors import NotFoundError

PRESETS = {p.name: p for p in load_presets()}

TOTALS = {
    "DeepSeek-V2-Lite": 15.7,
    "DeepSeek-V2": 236,
    "DeepSeek-V3": 685,
    "DeepSeek-V4-Flash": 284,
    "Kimi-K2-Instruct": 1026,
    "Qwen2-57B-A14B": 57.4,
    "Qwen3-30B-A3B": 30.5,
    "Qwen3-235B-A22B": 235,
    "Qwen3-Next-80B-A3B": 80,
    "Qwen3.5-35B-A3B": 35,
    "Qwen3.5-397B-A17B": 397,
    "GLM-4.5": 358,
    "GLM-4.5-Air": 110,
    "GLM-5": 754,
    "MiniMax-M2": 229,
    "MiniMax-M3": 428,
    "Mixtral-8x7B": 46.7,
    "Mixtral-8x22B": 141,
    "Llama-4-Scout": 109,
    "Llama-4-Maverick": 400,
    "SmallThinker-21B-A3B": 21,
    "gpt-oss-20b": 20.9,
    "gpt-oss-120b": 117,
    "OLMoE-1B-7B": 6.9,
    "Qwen3.6-35B-A3B": 35,
    "Qwen3.8-Flash-Next": 180,
    "GLM-5.3-Flash": 321.3,
    "DeepSeek-V4.1-Flash": 552 + 196.6 + 15.4,
    "Kimi-K2.6": 1026,
    "Kimi-K2.7-Code": 1026,
    "Kimi-K3": 2780,
    "Gemma-4-26B-A4B": 25.2 + 0.55,
    "Hy3": 295,
    "Step-3.7-Flash": 198,
    "Nemotron-3-Super-120B-A12B": 120.6,
}
"""Billions of parameters on the model cards."""

BYTES = {"DeepSeek-V3": 688.6, "Kimi-K2-Thinking": 594, "gpt-oss-20b": 13.8, "gpt-oss-120b": 65.2,
         "DeepSeek-V4.1-Flash": 510.3, "DeepSeek-V4-Flash-0731": 167, "Kimi-K3": 1560,
         "Gemma-4-26B-A4B": 51.6}  # fmt: skip
"""Gigabytes of the published files."""

REQUIRED = {
    "DeepSeek-V2-Lite",
    "DeepSeek-V2",
    "DeepSeek-V3",
    "DeepSeek-V3-0324",
    "DeepSeek-V3.1",
    "DeepSeek-V3.2",
    "DeepSeek-R1",
    "DeepSeek-R1-0528",
    "DeepSeek-V4-Flash",
    "Kimi-K2-Instruct",
    "Kimi-K2-Instruct-0905",
    "Kimi-K2-Thinking",
    "Kimi-K2.5",
    "Qwen2-57B-A14B",
    "Qwen3-30B-A3B",
    "Qwen3-235B-A22B",
    "Qwen3-Next-80B-A3B",
    "Qwen3-Coder-Next",
    "Qwen3.5-35B-A3B",
    "Qwen3.5-397B-A17B",
    "GLM-4.5",
    "GLM-4.5-Air",
    "GLM-4.6",
    "GLM-4.7",
    "GLM-5",
    "GLM-5.1",
    "GLM-5.2",
    "MiniMax-M2",
    "MiniMax-M2.1",
    "MiniMax-M2.5",
    "MiniMax-M2.7",
    "MiniMax-M3",
    "Mixtral-8x7B",
    "Mixtral-8x22B",
    "Llama-4-Scout",
    "Llama-4-Maverick",
    "SmallThinker-21B-A3B",
    "gpt-oss-120b",
    "OLMoE-1B-7B",
    "Qwen3-30B-A3B-Instruct-2507",
    "Qwen3-235B-A22B-Instruct-2507",
    "Qwen3.6-35B-A3B",
    "Qwen3.8-Flash-Next",
    "GLM-5.3-Flash",
    "DeepSeek-V4.1-Flash",
    "DeepSeek-V4-Flash-0731",
    "Kimi-K2.6",
    "Kimi-K2.7-Code",
    "Kimi-K3",
    "Gemma-4-26B-A4B",
    "Hy3",
    "Step-3.7-Flash",
    "Nemotron-3-Super-120B-A12B",
    "openPangu-2.0-Flash",
}


def model(name: str) -> Model:
    return preset_model(PRESETS[name])


def test_every_model_of_the_field_has_a_preset_with_a_source() -> None:
    assert set(PRESETS) >= REQUIRED
    assert all(p.source for p in PRESETS.values())
    assert all(p.repos for p in planned_presets())


ACTIVE = {"DeepSeek-V4.1-Flash": 16, "Kimi-K3": 104, "Gemma-4-26B-A4B": 3.8, "Hy3": 21,
          "Nemotron-3-Super-120B-A12B": 12, "GLM-5.3-Flash": 18, "Qwen3.6-35B-A3B": 3}  # fmt: skip
"""Billions of parameters a token touches, on the model cards; most leave the embedding out."""


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_those_of_the_model_card(name: str) -> None:
    """The embedding, and of Qwen's and NVIDIA's the head too, lie between the two counts."""
    found = model(name)
    ends = sum(found.parameters.get(k, 0) for k in ("embedding", "lm_head"))
    low, high = (found.active_parameters - ends) / 1e9, found.active_parameters / 1e9
    assert 0.95 * low < ACTIVE[name] < 1.05 * high


@pytest.mark.parametrize("name", ["openPangu-2.0-Flash", "Qwen3.8-2.4T-A95B"])
def test_a_model_of_unknown_geometry_is_known_by_name_and_not_planned(name: str) -> None:
    found = lookup(name.lower(), list(PRESETS.values()))
    assert found and found[0].name == name
    with pytest.raises(NotFoundError, match="geometry") as caught:
        preset_model(found[0])
    assert "active" in caught.value.why
    assert "folder" in caught.value.fix
    assert name not in {p.name for p in planned_presets()}


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_are_those_of_the_model_card(name: str) -> None:
    assert model(name).total_parameters / 1e9 == pytest.approx(TOTALS[name], rel=0.025)


@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_those_of_the_published_files(name: str) -> None:
    assert model(name).total_bytes / 1e9 == pytest.approx(BYTES[name], rel=0.01)


def test_kv_cache_of_deepseek_v3_takes_70272_bytes_a_token() -> None:
    assert kv_cost(model("DeepSeek-V3").attention, 2).token == 70272


def test_latent_cache_is_not_split_over_gpus() -> None:
    attention = model("DeepSeek-V3").attention
    assert kv_cost(attention, 2, tp=8).token == kv_cost(attention, 2).token


def test_hybrid_models_keep_a_state_for_each_request() -> None:
    cost = kv_cost(model("Qwen3-Next-80B-A3B").attention, 2)
    assert cost.token == 12 * 2 * (256 + 256) * 2
    assert cost.request == 36 * (32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2)


def test_windowed_layers_stop_at_the_window() -> None:
    cost = kv_cost(model("gpt-oss-20b").attention, 2)
    long, longer = cost.total(10_000, 1), cost.total(20_000, 1)
    assert longer - long == 10_000 * 12 * 8 * 128 * 2


def test_compressed_attention_keeps_every_fourth_and_every_128th_token() -> None:
    cost = kv_cost(model("DeepSeek-V4-Flash").attention, 2)
    per_layer = 512 * 2 + 132
    assert cost.token == -(-21 * per_layer // 4) + -(-20 * per_layer // 128)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("r1", "DeepSeek-R1-0528"), ("k2", "Kimi-K2-Thinking"), ("m2", "MiniMax-M2"),
     ("v3.2", "DeepSeek-V3.2"), ("m2.1", "MiniMax-M2.1"), ("v3-0324", "DeepSeek-V3-0324")],
)  # fmt: skip
def test_aliases_mean_what_they_mean_upstream(alias: str, name: str) -> None:
    found = lookup(alias, list(PRESETS.values()))
    assert found is not None
    assert found[0].name == name


@pytest.mark.parametrize("alias", ["r1", "k2", "kimi", "v3"])
def test_an_alias_that_could_mean_two_models_says_so(alias: str) -> None:
    found = lookup(alias, list(PRESETS.values()))
    assert found is not None
    assert ambiguity(alias.upper(), found[0])


# Millions of parameters of the tower and its bridge, counted in transformers 5.23; Llama 4's with
# the `projector_output_dim` of its configuration. Kimi's is what its model card rounds to 0.4 G.
TOWERS = {"Qwen3.5-35B-A3B": 446.6, "Qwen3.5-397B-A17B": 456.0, "MiniMax-M3": 865.6,
          "Llama-4-Scout": 872.6, "Kimi-K2.5": 466.4}  # fmt: skip


@pytest.mark.parametrize("name", TOWERS)
def test_vision_towers_are_counted_and_stay_in_the_models_type(name: str) -> None:
    model = preset_model(next(p for p in load_presets() if p.name == name))
    assert model.parameters["vision"] / 1e6 == pytest.approx(TOWERS[name], rel=2e-3)
    assert model.bytes["vision"] == 2 * model.parameters["vision"]


@pytest.mark.parametrize(
    ("name", "gb"),
    [("DeepSeek-R1", 404), ("Kimi-K2-Instruct", 621), ("Qwen3-30B-A3B", 18.6),
     ("Qwen3-235B-A22B", 142), ("Mixtral-8x7B", 26.4)],
)  # fmt: skip
def test_a_gguf_is_as_large_as_its_published_files(name: str, gb: float) -> None:
    """Mixtral's is of an older mixture."""
    found = lookup(f"{name}:Q4_K_M", list(PRESETS.values()))
    assert found
    model = preset_model(*found)
    assert model.total_bytes / 1e9 == pytest.approx(
        gb, rel=0.08 if name == "Mixtral-8x7B" else 0.01
    )
    assert model.quantization.method == "gguf"
