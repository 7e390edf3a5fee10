"""Checkpoints as they are published: quantised, fused, nested. Headers only, written by hand."""

import pytest
from tiny_models import BASE, DELTA, LATENT, ROUTED, write_checkpoint

from kt_cli import catalog
from kt_cli.errors import KtError

H, W, E = 64, 32, 8
PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
INT4 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": PACKED}},
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"],
}


def outer(prefix="model.", head="lm_head"):
    return {
        f"{prefix}embed_tokens.weight": ("BF16", (96, H)),
        f"{prefix}norm.weight": ("BF16", (H,)),
        f"{head}.weight": ("BF16", (96, H)),
    }


def layer(name, *moe):
    """A layer with grouped attention and what `moe` yields for it."""
    held = {
        f"{name}.self_attn.q_proj.weight": ("BF16", (64, H)),
        f"{name}.self_attn.k_proj.weight": ("BF16", (32, H)),
        f"{name}.self_attn.v_proj.weight": ("BF16", (32, H)),
        f"{name}.self_attn.o_proj.weight": ("BF16", (H, 64)),
        f"{name}.input_layernorm.weight": ("BF16", (H,)),
        f"{name}.post_attention_layernorm.weight": ("BF16", (H,)),
    }
    for part in moe:
        held |= part
    return held


def each(name, projections, tensors):
    """`tensors` maps a suffix to (dtype, shape) for a matrix of [rows, columns]."""
    shapes = dict(zip(projections, ((W, H), (W, H), (H, W)), strict=True))
    return {
        f"{name}.{e}.{part}.{suffix}": make(*shape)
        for e in range(E)
        for part, shape in shapes.items()
        for suffix, make in tensors.items()
    }


HF = ("gate_proj", "up_proj", "down_proj")
PLAIN = {"weight": lambda n, k: ("BF16", (n, k))}
FP8 = {
    "weight": lambda n, k: ("F8_E4M3", (n, k)),
    "weight_scale_inv": lambda n, k: ("F32", (-(-n // 128), -(-k // 128))),
}
PER_CHANNEL = {
    "weight": lambda n, k: ("F8_E4M3", (n, k)),
    "weight_scale": lambda n, k: ("BF16", (n, 1)),
}
GROUPED = {
    "weight_packed": lambda n, k: ("I32", (n, k // 8)),
    "weight_scale": lambda n, k: ("BF16", (n, k // 32)),
    "weight_shape": lambda n, k: ("I32", (2,)),
}
GPTQ = {
    "qweight": lambda n, k: ("I32", (k // 8, n)),
    "qzeros": lambda n, k: ("I32", (k // 32, n // 8)),
    "scales": lambda n, k: ("BF16", (k // 32, n)),
    "g_idx": lambda n, k: ("I32", (k,)),
}
NVFP4 = {
    "weight": lambda n, k: ("U8", (n, k // 2)),
    "weight_scale": lambda n, k: ("F8_E4M3", (n, k // 16)),
    "weight_scale_2": lambda n, k: ("F32", ()),
    "input_scale": lambda n, k: ("F32", ()),
}
FP4 = {
    "weight": lambda n, k: ("I8", (n, k // 2)),
    "scale": lambda n, k: ("F8_E8M0", (n, k // 32)),
}
CONFIG = {
    **BASE,
    **ROUTED,
    "num_hidden_layers": 1,
    "num_experts": E,
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
}
ROUTER = {"model.layers.0.mlp.gate.weight": ("BF16", (E, H))}
METHODS = {
    "fp8": (FP8, {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8, 128),
    "channel": (PER_CHANNEL, {"quant_method": "fp8"}, "fp8_channel", 8, 0),
    "int4": (GROUPED, INT4, "int4", 4, 32),
    "gptq": (GPTQ, {"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq", 4, 32),
    "nvfp4": (NVFP4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4, 16),
}
NAMES = "model.layers.0.mlp.experts"


@pytest.mark.parametrize("kind", METHODS)
def test_quantised_experts_are_counted_in_weights_and_in_bytes(tmp_path, kind):
    tensors, quantization, method, bits, group = METHODS[kind]
    held = outer() | layer("model.layers.0", each(NAMES, HF, tensors), ROUTER)
    config = {**CONFIG, "quantization_config": quantization}
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.parameters["routed_experts"] == E * 3 * H * W
    found = model.quantization
    assert (found.method, found.bits, found.group) == (method, bits, group)
    computed = catalog.from_config(config, "m").bytes["routed_experts"]
    assert model.bytes["routed_experts"] == computed


def test_experts_that_a_quantisation_leaves_alone_are_told(tmp_path):
    held = outer() | layer("model.layers.0", each(NAMES, HF, PLAIN), ROUTER)
    config = {**CONFIG, "quantization_config": {"quant_method": "fp8"}}
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.quantization.method == "bf16"
    assert "fp8" in model.quantization.details


@pytest.mark.parametrize("axes", ["rows first", "columns first"])
def test_fused_experts_in_both_orders(tmp_path, axes):
    up, down = ((E, 2 * W, H), (E, H, W)) if axes == "rows first" else ((E, H, 2 * W), (E, W, H))
    prefix = "model.language_model.layers.0"
    fused = {
        f"{prefix}.mlp.experts.gate_up_proj": ("BF16", up),
        f"{prefix}.mlp.experts.down_proj": ("BF16", down),
        f"{prefix}.mlp.gate.weight": ("BF16", (E, H)),
        f"{prefix}.mlp.shared_expert.up_proj.weight": ("BF16", (W, H)),
        f"{prefix}.mlp.shared_expert_gate.weight": ("BF16", (1, H)),
        f"{prefix}.linear_attn.in_proj_qkv.weight": ("BF16", (128, H)),
        "model.visual.blocks.0.mlp.linear_fc1.weight": ("BF16", (8, 8)),
        "mtp.layers.0.mlp.experts.gate_up_proj": ("BF16", up),
    }
    text = {**CONFIG, **DELTA, "shared_expert_intermediate_size": W}
    text |= {"model_type": "qwen3_5_moe_text", "layer_types": ["linear_attention"]}
    config = {
        "model_type": "qwen3_5_moe",
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"depth": 1},
    }
    held = outer("model.language_model.") | layer(prefix, fused)
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.parameters["routed_experts"] == E * 3 * H * W
    assert model.bytes["vision"] == 128
    assert model.bytes["draft"] == E * 2 * W * H * 2
    assert model.attention.linear_layers == 1
    assert model.experts.shared == 1
    assert model.notes == ()


def test_gpt_oss_as_published(tmp_path):
    prefix = "model.layers.0.mlp"
    fused = {
        f"{prefix}.experts.gate_up_proj_blocks": ("U8", (E, 2 * W, H // 32, 16)),
        f"{prefix}.experts.gate_up_proj_scales": ("U8", (E, 2 * W, H // 32)),
        f"{prefix}.experts.gate_up_proj_bias": ("BF16", (E, 2 * W)),
        f"{prefix}.experts.down_proj_blocks": ("U8", (E, H, W // 32, 16)),
        f"{prefix}.experts.down_proj_scales": ("U8", (E, H, W // 32)),
        f"{prefix}.experts.down_proj_bias": ("BF16", (E, H)),
        f"{prefix}.router.weight": ("BF16", (E, H)),
        f"{prefix}.router.bias": ("BF16", (E,)),
        "model.layers.0.self_attn.sinks": ("BF16", (4,)),
    }
    exempt = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    config = {
        **CONFIG,
        "model_type": "gpt_oss",
        "intermediate_size": W,
        "sliding_window": 16,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": exempt},
    }
    held = outer() | layer("model.layers.0", fused)
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    computed = catalog.from_config(config, "m")
    assert model.parameters["routed_experts"] == E * (3 * H * W + 2 * W + H)
    assert model.bytes == computed.bytes
    assert model.quantization.method == "mxfp4"
    assert model.experts.activation == "swiglu_oai"


def test_kimi_inside_a_multimodal_model(tmp_path):
    prefix = "language_model.model.layers.1.mlp"
    config = {
        "model_type": "kimi_k25",
        "architectures": ["KimiK25ForConditionalGeneration"],
        "auto_map": {"AutoModel": "modeling.KimiK25"},
        "text_config": {
            **LATENT,
            "model_type": "kimi_k2",
            "num_hidden_layers": 2,
            "quantization_config": INT4,
        },
    }
    held = outer("language_model.model.", "language_model.lm_head")
    held |= each(f"{prefix}.experts", HF, GROUPED)
    held |= {
        f"{prefix}.gate.weight": ("BF16", (E, H)),
        f"{prefix}.gate.e_score_correction_bias": ("F32", (E,)),
        f"{prefix}.shared_experts.up_proj.weight": ("BF16", (W, H)),
        "vision_tower.encoder.blocks.0.wqkv.weight": ("BF16", (8, 8)),
        "mm_projector.proj.0.weight": ("BF16", (8, 8)),
    }
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.parameters["routed_experts"] == E * 3 * H * W
    assert model.bytes["vision"] == 256
    assert model.bytes["router"] == E * H * 2 + E * 4
    assert model.quantization.method == "int4"
    assert model.attention.kind == "mla"
    assert model.remote_code


def test_deepseek_v4_as_published(tmp_path):
    held = {
        "embed.weight": ("BF16", (96, H)),
        "head.weight": ("BF16", (96, H)),
        "norm.weight": ("BF16", (H,)),
        "hc_head_fn": ("F32", (4, 4 * H)),
        "layers.0.attn.wkv.weight": ("F8_E4M3", (16, H)),
        "layers.0.attn.wkv.scale": ("F8_E8M0", (1, 1)),
        "layers.0.attn.attn_sink": ("F32", (4,)),
        "layers.0.attn_norm.weight": ("BF16", (H,)),
        "layers.0.hc_attn_scale": ("F32", (3,)),
        "layers.0.ffn.gate.weight": ("BF16", (E, H)),
        "layers.0.ffn.gate.tid2eid": ("I64", (96, 2)),
        "layers.0.ffn.shared_experts.w1.weight": ("F8_E4M3", (W, H)),
        "mtp.0.h_proj.weight": ("F8_E4M3", (H, H)),
    }
    held |= each("layers.0.ffn.experts", ("w1", "w3", "w2"), FP4)
    config = {
        **CONFIG,
        "model_type": "deepseek_v4",
        "num_key_value_heads": 1,
        "n_shared_experts": 1,
        "compress_ratios": [4],
        "expert_dtype": "fp4",
        "quantization_config": {
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "scale_fmt": "ue8m0",
        },
    }
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.parameters["routed_experts"] == E * 3 * H * W
    assert model.parameters["router"] == E * H + 192
    assert model.parameters["other"] == 16 * H + 3
    assert model.parameters["attention"] == 16 * H + 4
    assert model.bytes["draft"] == H * H
    assert (model.quantization.method, model.quantization.group) == ("mxfp4", 32)
    assert model.notes == ()


def test_smallthinker_as_published(tmp_path):
    prefix = "model.layers.0.block_sparse_moe"
    moe = each(f"{prefix}.experts", ("gate", "up", "down"), PLAIN)
    moe |= {f"{prefix}.primary_router.weight": ("BF16", (E, H))}
    config = {
        **BASE,
        "model_type": "smallthinker",
        "num_hidden_layers": 1,
        "moe_num_primary_experts": E,
        "moe_num_active_primary_experts": 2,
        "moe_ffn_hidden_size": W,
        "moe_layer_layout": [1],
        "sliding_window_layout": [1],
        "sliding_window_size": 8,
    }
    held = outer() | layer("model.layers.0", moe)
    model = catalog.read(write_checkpoint(tmp_path / "m", config, held))
    assert model.bytes == catalog.from_config(config, "m").bytes
    assert (model.experts.top_k, model.experts.activation) == (2, "relu")
    assert (model.attention.window_layers, model.attention.window) == (1, 8)


def test_layers_after_the_last_are_a_draft(tmp_path):
    held = outer() | layer("model.layers.0", each(NAMES, HF, PLAIN), ROUTER)
    extra = layer("model.layers.1", each("model.layers.1.mlp.experts", HF, PLAIN))
    model = catalog.read(write_checkpoint(tmp_path / "m", CONFIG, held | extra))
    assert model.parameters["draft"] == E * 3 * H * W + 2 * 64 * H + 2 * 32 * H + 2 * H


def test_an_unknown_family_is_read_by_what_it_holds(tmp_path):
    held = outer() | layer("model.layers.0", each(NAMES, HF, PLAIN), ROUTER)
    config = {**CONFIG, "model_type": "tomorrow_moe"}
    folder = write_checkpoint(tmp_path / "m", config, held)
    model = catalog.read(folder)
    assert model.experts.count == E
    assert "tomorrow_moe" in model.notes[0]
    with pytest.raises(KtError, match="cannot compute the size"):
        catalog.from_config(config, "m")


def test_tensors_of_no_known_class_are_named(tmp_path):
    held = outer() | layer("model.layers.0", each(NAMES, HF, PLAIN), ROUTER)
    held["model.layers.0.hyperdrive.weight"] = ("BF16", (4, 4))
    model = catalog.read(write_checkpoint(tmp_path / "m", CONFIG, held))
    assert model.bytes["other"] == 32
    assert "hyperdrive" in model.notes[0]


def fewer(held):
    return {name: value for name, value in held.items() if ".experts.7." not in name}


def strange(held):
    return {name.replace(".experts.", ".specialists."): value for name, value in held.items()}


def wider(held):
    return held | {f"{NAMES}.3.up_proj.weight": ("BF16", (W + 1, H))}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (fewer, "layer 0 has 7 experts"),
        (strange, "no tensors of known names"),
        (wider, "is [33, 64]"),
    ],
)
def test_tensors_that_contradict_the_configuration_are_named(tmp_path, change, why):
    held = outer() | layer("model.layers.0", each(NAMES, HF, PLAIN), ROUTER)
    folder = write_checkpoint(tmp_path / "m", CONFIG, change(held))
    with pytest.raises(KtError, match="does not hold what its config") as caught:
        catalog.read(folder)
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"quantization_config": {"quant_method": "quip"}}, "'quip'"),
        ({"layer_types": ["quantum_attention"]}, "'quantum_attention'"),
        ({"num_experts_per_tok": None}, "num_experts_per_tok"),
        ({"num_attention_heads": "four"}, "num_attention_heads"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_what_a_configuration_lacks_or_invents_is_named(change, what):
    with pytest.raises(KtError) as caught:
        catalog.from_config({**CONFIG, **change}, "m")
    assert what in caught.value.why
