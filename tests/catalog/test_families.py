"""For every family transformers has: exact sizes from headers equal those of the configuration."""

import json

import pytest
from tiny_models import FAMILIES, save_tiny
from transformers import CONFIG_MAPPING

from kt_cli import catalog
from kt_cli.weights.headers import read_header

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = [kind for kind in FAMILIES if kind in CONFIG_MAPPING]
"""Older releases of transformers lack the newest families."""
EXPERT_LAYERS = {
    "qwen3_moe": (1, 2, 3),
    "qwen3_next": (1, 3),
    "deepseek_v2": (1, 2, 3),
    "deepseek_v3": (1, 2, 3),
    "deepseek_v32": (1, 2, 3),
    "glm4_moe": (1, 2, 3),
    "glm_moe_dsa": (1, 2, 3),
    "minimax_m3_vl_text": (1, 2, 3),
    "llama4_text": (1, 3),
}
# Full, windowed and linear layers.
LAYERS = {
    "qwen3_next": (1, 0, 3),
    "qwen3_5_moe_text": (1, 0, 3),
    "gpt_oss": (2, 2, 0),
    "llama4_text": (1, 3, 0),
    "deepseek_v4": (0, 4, 0),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {kind: save_tiny(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_computed_sizes_equal_the_headers(saved, kind):
    folder = saved[kind]
    config = json.loads((folder / "config.json").read_text())
    exact, computed = catalog.read(folder), catalog.from_config(config, kind)
    # Some classes keep the router's correction in bf16 when saved, as no published model does.
    bytes_of = [{k: v for k, v in m.bytes.items() if k != "router"} for m in (exact, computed)]
    assert bytes_of[0] == bytes_of[1]
    assert abs(exact.bytes["router"] - computed.bytes["router"]) <= 2 * 8 * 4
    assert exact.parameters == computed.parameters
    assert (exact.attention, exact.experts) == (computed.attention, computed.experts)
    assert (exact.exact, computed.exact) == (True, False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_of_the_file_has_a_class(saved, kind):
    model = catalog.read(saved[kind])
    held = read_header(saved[kind] / "model.safetensors").values()
    assert model.total_bytes == sum(info.nbytes for info in held)
    assert model.total_parameters == sum(info.elements for info in held)
    assert model.notes == ()


@pytest.mark.parametrize("kind", KINDS)
def test_experts_are_described(saved, kind):
    config, experts = FAMILIES[kind], catalog.read(saved[kind]).experts
    assert experts.count == (4 if kind == "llama4_text" else 8)
    assert experts.top_k == config.get("num_experts_per_tok", 2)
    assert experts.layers == EXPERT_LAYERS.get(kind, (0, 1, 2, 3))
    routed = experts.count * len(experts.layers) * experts.parameters_each
    held = catalog.read(saved[kind]).parameters["routed_experts"]
    biases = held - routed if kind == "gpt_oss" else 0
    assert held == routed + biases


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_counted_by_what_they_keep(saved, kind):
    attention = catalog.read(saved[kind]).attention
    counted = (attention.full_layers, attention.window_layers, attention.linear_layers)
    assert counted == LAYERS.get(kind, (4, 0, 0))


def test_latent_attention_is_described(saved):
    attention = catalog.read(saved["deepseek_v32"]).attention
    assert (attention.kind, attention.kv_lora_rank, attention.rope_dim) == ("mla", 24, 8)
    assert (attention.head_dim, attention.v_head_dim, attention.index_head_dim) == (24, 20, 16)


def test_the_state_of_a_linear_layer_is_counted(saved):
    attention = catalog.read(saved["qwen3_next"]).attention
    state, convolution = 4 * (4 * 16 * 24), 2 * 3 * (2 * 2 * 16 + 4 * 24)
    assert attention.linear_state_bytes == state + convolution


def test_compressed_attention_tells_its_rates(saved):
    attention = catalog.read(saved["deepseek_v4"]).attention
    assert dict((rate, layers) for layers, rate in attention.compressed_layers) == {128: 3, 4: 1}
    assert (attention.kv_heads, attention.head_dim, attention.v_head_dim) == (1, 16, 0)


# Parameters as the hubs of the published checkpoints count them.
PUBLISHED = {
    "Mixtral-8x7B": 46_702_792_704,
    "OLMoE-1B-7B": 6_919_161_856,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "DeepSeek-V2-Lite": 15_706_484_224,
    "GLM-4.5-Air": 110_468_824_832,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_ones(name):
    assert catalog.find(name).total_parameters == PUBLISHED[name]


# Sizes of the published files in GB; scales and vision towers make up the rest of the digits.
FILES = {
    "DeepSeek-V3": 688.6,
    "Kimi-K2-Instruct": 1029.2,
    "Kimi-K2-Thinking": 594.2,
    "gpt-oss-120b": 65.2,
    "MiniMax-M2": 230.0,
}


@pytest.mark.parametrize("name", FILES)
def test_bytes_of_quantised_models_equal_the_published_ones(name):
    assert catalog.find(name).total_bytes / 1e9 == pytest.approx(FILES[name], rel=2e-3)
