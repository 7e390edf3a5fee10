"""`quantization_config` under every spelling: read to the bit, or named by its key."""

import json

import pytest
from tiny_models import BASE, ROUTED, write_checkpoint

from kt_cli import catalog
from kt_cli.catalog.config import Config
from kt_cli.catalog.module_names import ModuleNames
from kt_cli.catalog.quantization import expert_quantization
from kt_cli.catalog.quantization_config import FILES, read_scheme
from kt_cli.core.model import Quantization
from kt_cli.documents import Source
from kt_cli.errors import TransferError

E, H, W = 4, 64, 32
CONFIG = {**BASE, **ROUTED, "num_hidden_layers": 1, "num_experts": E, "model_type": "qwen3_moe"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
OPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}


def packed(**weights):
    group = {"weights": {"num_bits": 4, "type": "int", **weights}, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def how(method, bits=4, group=128, **more):
    return Quantization(method, bits, group, **more)


INT4 = how("gptq")
EXPERTS = {
    "gptq": (GPTQ, INT4),
    "8 bits": ({**GPTQ, "bits": 8}, how("gptq", 8)),
    "one scale a row": ({**GPTQ, "group_size": -1}, how("gptq", group=0)),
    "act-order": ({**GPTQ, "desc_act": True}, how("gptq", details="act-order", act_order=True)),
    "zero points": ({**GPTQ, "sym": False}, how("gptq", zero_points=True)),
    "nulls": ({**GPTQ, "desc_act": None, "sym": None, "modules_to_not_convert": None}, INT4),
    "gptq by its keys": ({"bits": 4, "group_size": 128, "desc_act": False}, INT4),
    "gptq of 2023": ({"wbits": 4, "groupsize": 128}, INT4),
    "no method": ({**GPTQ, "quant_method": None}, INT4),
    "gptq_marlin": ({**GPTQ, "quant_method": "gptq_marlin"}, INT4),
    "awq": (AWQ, how("awq", zero_points=True)),
    "awq by its keys": (
        {"w_bit": 4, "q_group_size": 64, "zero_point": True, "version": "GEMM"},
        how("awq", group=64, zero_points=True),
    ),
    "auto-round": (ROUND, INT4),
    "auto-round as awq": ({**ROUND, "packing_format": "auto_round:auto_awq"}, how("awq")),
    "auto-round in fp4": ({**ROUND, "data_type": "mx_fp", "group_size": 32}, how("mxfp4", 4, 32)),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, how("fp8", 8)),
    "fp8 by its keys": ({"weight_block_size": [1, 64]}, how("fp8", 8, 64)),
    "fp8 a row": ({"quant_method": "fp8", "weight_block_size": None}, how("fp8_channel", 8, 0)),
    "mxfp4": ({"quant_method": "mxfp4"}, how("mxfp4", 4, 32)),
    "groups": (packed(strategy="group", group_size=32), how("int4", 4, 32)),
    "groups unsaid": (packed(group_size=32), how("int4", 4, 32)),
    "a row": (packed(strategy="channel", group_size=None), how("int4", 4, 0)),
    "a row as -1": (packed(strategy="channel", group_size=-1), how("int4", 4, 0)),
    "asymmetric": (
        packed(strategy="group", group_size=32, symmetric=False, actorder="group"),
        how("int4", 4, 32, act_order=True, zero_points=True),
    ),
    "blocks as text": (
        packed(num_bits=8, type="float", strategy="block", block_structure="128x64"),
        how("fp8", 8, 64),
    ),
    "compressed by its keys": (
        {"config_groups": packed(group_size=32)["config_groups"]},
        how("int4", 4, 32),
    ),
    "modelopt": (OPT, how("nvfp4", 4, 16)),
    "modelopt of a file": (
        {"producer": {}, "quantization": {"quant_algo": "NVFP4"}},
        how("nvfp4", 4, 16),
    ),
    "modelopt mixed": (
        {
            "quant_method": "modelopt",
            "quant_algo": "MIXED_PRECISION",
            "quantized_layers": {
                "model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "NVFP4", "group_size": 16},
                "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
            },
        },
        how("nvfp4", 4, 16),
    ),
    "experts of their own": (
        {**GPTQ, "dynamic": {"+:.*experts.*": {"bits": 8, "group_size": 64}}},
        how("gptq", 8, 64),
    ),
    "experts left alone": ({**GPTQ, "dynamic": {r"-:.*\.experts\..*": {}}}, None),
    "experts exempt": ({**GPTQ, "modules_to_not_convert": ["experts"]}, None),
    "something else exempt": ({**GPTQ, "modules_to_not_convert": ["lm_head", "gate"]}, INT4),
    "the first that fits": (
        {
            **GPTQ,
            "dynamic": {"-:.*attn.*": {}, ".*up_proj": {"bits": 8}, ".*experts.*": {"bits": 2}},
        },
        how("gptq", 8),
    ),
    "extra_config": (
        {**ROUND, "extra_config": {".*experts.*": {"bits": 8}, "lm_head": {"bits": 16}}},
        how("gptq", 8),
    ),
    "two groups": (
        {
            "quant_method": "compressed-tensors",
            "config_groups": {
                "a": {
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    "targets": ["Linear"],
                },
                "b": {"weights": {"num_bits": 4, "group_size": 32}, "targets": ["re:.*experts.*"]},
            },
        },
        how("int4", 4, 32),
    ),
    "none": (None, None),
    "an empty one": ({}, None),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_how_experts_are_stored(name):
    stated, expected = EXPERTS[name]
    for values in (
        {"quantization_config": stated},
        {"text_config": CONFIG, "quantization_config": stated},
    ):
        config = Config.of({**CONFIG, **values}, "x")
        assert expert_quantization(read_scheme(config), config) == expected


def weights_null():
    stated = packed()
    stated["config_groups"]["group_0"]["weights"] = None
    return stated


WRONG = {
    "a list": ([GPTQ], "quantization_config"),
    "a text": ("gptq", "quantization_config"),
    "an unknown method": ({"quant_method": "quip"}, "'quip'"),
    "a listed method": ({"quant_method": ["gptq"]}, "quant_method"),
    "nothing known": ({"colour": "red"}, "quant_method"),
    "no bits": ({**GPTQ, "bits": None}, "bits"),
    "listed bits": ({**GPTQ, "bits": [4]}, "bits"),
    "bits as text": ({**GPTQ, "bits": "4"}, "bits"),
    "5 bits": ({**GPTQ, "bits": 5}, "one of 2, 3, 4, 8"),
    "true bits": ({**GPTQ, "bits": True}, "bits"),
    "no group": ({"quant_method": "gptq", "bits": 4}, "group_size"),
    "a group of -2": ({**GPTQ, "group_size": -2}, "group_size"),
    "a huge group": ({**GPTQ, "group_size": 10**30}, "group_size"),
    "an order as text": ({**GPTQ, "desc_act": "yes"}, "desc_act"),
    "exempt as text": ({**GPTQ, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
    "exempt numbers": ({**GPTQ, "ignore": [1]}, "ignore"),
    "dynamic as list": ({**GPTQ, "dynamic": [1]}, "dynamic"),
    "dynamic of numbers": ({**GPTQ, "dynamic": {"a": 1}}, "dynamic"),
    "no expression": ({**GPTQ, "dynamic": {"+:(": {"bits": 8}}}, "no regular expression"),
    "an endless expression": ({**GPTQ, "dynamic": {"+:(.+)+x": {"bits": 8}}}, "take for ever"),
    "many repeats": ({**GPTQ, "ignore": ["re:" + ".*" * 9 + "x"]}, "take for ever"),
    "many stars": ({**GPTQ, "ignore": ["*" * 9 + "x"]}, "take for ever"),
    "a block of one": ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size"),
    "a block of 0": ({"quant_method": "fp8", "weight_block_size": [0, 0]}, "weight_block_size"),
    "a block as number": ({"quant_method": "fp8", "weight_block_size": 128}, "weight_block_size"),
    "no groups": ({"quant_method": "compressed-tensors", "config_groups": {}}, "config_groups"),
    "no weights": (weights_null(), "num_bits"),
    "7 bits": (packed(num_bits=7), "not known"),
    "a strategy of lists": (packed(strategy=[]), "strategy"),
    "an unknown algorithm": ({**OPT, "quant_algo": "FP3"}, "'FP3'"),
    "a group of 0": ({**OPT, "group_size": 0}, "group_size"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name):
    stated, why = WRONG[name]
    config = Config.of({**CONFIG, "quantization_config": stated}, "the file")
    with pytest.raises(TransferError, match="the file") as caught:
        read_scheme(config)
    assert why in caught.value.why
    assert caught.value.fix


def test_names_in_full_in_part_and_by_pattern():
    said = [("lm_head", 1), ("layers.0.mlp", 2), ("re:.*gate$", 3), ("model.*.q_proj", 4)]
    names = ModuleNames(said, Source("x"))
    for module, value in {
        "lm_head": 1,
        "model.lm_head": 1,
        "my_lm_head": None,
        "model.layers.0.mlp.up_proj": 2,
        "model.layers.10.mlp.up_proj": None,
        "model.layers.1.mlp.gate": 3,
        "model.layers.1.mlp.gate_up": None,
        "model.layers.7.self_attn.q_proj": 4,
    }.items():
        assert names.find(module) == value, module


def gptq_experts(bits):
    name = "model.layers.0.mlp.experts"
    shapes = {"gate_proj": (W, H), "up_proj": (W, H), "down_proj": (H, W)}
    return {
        f"{name}.{e}.{part}.{suffix}": shape
        for e in range(E)
        for part, (n, k) in shapes.items()
        for suffix, shape in {
            "qweight": ("I32", (k * bits // 32, n)),
            "scales": ("BF16", (1, n)),
        }.items()
    }


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_counted_by_the_bits_of_their_module(tmp_path, bits):
    held = gptq_experts(bits)
    held["model.layers.0.self_attn.q_proj.qweight"] = ("I32", (H * 4 // 32, 64))
    stated = {**GPTQ, "dynamic": {"+:.*experts.*": {"bits": bits}}}
    folder = write_checkpoint(tmp_path / "m", {**CONFIG, "quantization_config": stated}, held)
    model = catalog.read(folder)
    assert model.parameters["routed_experts"] == 3 * E * H * W
    assert model.parameters["attention"] == H * 64
    assert model.quantization.bits == bits


@pytest.mark.parametrize("file", FILES)
def test_a_file_beside_the_configuration_may_say_it(tmp_path, file):
    folder = write_checkpoint(tmp_path / "m", CONFIG, gptq_experts(4))
    with pytest.raises(TransferError, match=str(folder)) as caught:
        catalog.read(folder)
    assert "stored as I32" in caught.value.why
    (folder / file).write_text(json.dumps({"bits": 4, "group_size": -1, "sym": True}))
    assert catalog.read(folder).quantization == how("gptq", group=0)
