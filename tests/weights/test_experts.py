"""Experts gathered from checkpoints of every layout, against transformers and torch."""

import json

import numpy as np
import pytest
import torch
from kt_moe.checkpoints.named import matrix_of
from kt_moe.formats import FormatError, Fp8Blocks, Fp8Rows, Gptq, MxFp4, MxFp8, NvFp4, RawInt4
from safetensors.torch import save_file
from tiny_models import FAMILIES, save_tiny
from transformers import AutoModelForCausalLM

from kt_cli import catalog
from kt_cli.errors import KtError, NotFoundError
from kt_cli.weights.checkpoint import Checkpoint
from kt_cli.weights.experts import expert_biases, experts

pytestmark = pytest.mark.filterwarnings("ignore")

JOINED = ["mixtral", "qwen3_moe", "deepseek_v3", "minimax_m2", "minimax_m3_vl_text", "deepseek_v4"]
INPUTS_FIRST = ["llama4_text", "gpt_oss"]


def gathered(folder):
    """Gate, up and down of the last layer's experts, stacked."""
    model, checkpoint = catalog.read(folder), Checkpoint(folder)
    triples = list(experts(checkpoint, model, model.experts.layers[-1]))
    return [
        torch.from_numpy(np.stack([m.decode() for m in part]))
        for part in zip(*triples, strict=True)
    ]


def of_transformers(kind, folder):
    """The experts' tensors of the last layer in the model that transformers builds."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = {n: p for n, p in model.named_parameters() if ".3." in n and "experts." in n}
    up = next(p for n, p in found.items() if n.endswith("experts.gate_up_proj"))
    down = next(p for n, p in found.items() if n.endswith(".experts.down_proj"))
    if kind in INPUTS_FIRST:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    gate_up = (up[:, ::2], up[:, 1::2]) if kind == "gpt_oss" else up.chunk(2, dim=1)
    return [*(part.detach() for part in gate_up), down.detach()]


@pytest.mark.parametrize("kind", [*JOINED, *INPUTS_FIRST])
def test_experts_are_those_of_transformers(tmp_path, kind):
    folder = save_tiny(kind, tmp_path / kind)
    for ours, theirs in zip(gathered(folder), of_transformers(kind, folder), strict=True):
        assert torch.equal(ours, theirs)


def fused(folder, tensors, **changes):
    """A one-layer checkpoint of fused experts."""
    config = {**FAMILIES["qwen3_5_moe_text"], "num_hidden_layers": 1, **changes}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe_text", **config}))
    prefix = "model.language_model.layers.0.mlp.experts."
    save_file({prefix + n: t for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("inputs_first", [False, True])
def test_fused_experts_in_both_orders_are_told_by_their_shape(tmp_path, inputs_first):
    up, down = torch.randn(8, 64, 64), torch.randn(8, 64, 32)
    turned = (up.mT.contiguous(), down.mT.contiguous()) if inputs_first else (up, down)
    names = ("gate_up_proj", "down_proj")
    architecture = ["Llama4ForConditionalGeneration"] if inputs_first else ["Qwen"]
    tensors = dict(zip(names, turned, strict=True))
    folder = fused(tmp_path / "m", tensors, architectures=architecture)
    gate, up_half, down_half = gathered(folder)
    assert torch.equal(torch.cat([gate, up_half], 1), up)
    assert torch.equal(down_half, down)


def test_gpt_oss_blocks_are_those_of_transformers(tmp_path):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    def blocks(rows, columns):
        values = torch.randint(0, 256, (8, rows, columns // 32, 16), dtype=torch.uint8)
        return values, torch.randint(118, 130, (8, rows, columns // 32), dtype=torch.uint8)

    (up, up_scale), (down, down_scale) = blocks(64, 64), blocks(64, 32)
    tensors = {
        "gate_up_proj_blocks": up,
        "gate_up_proj_scales": up_scale,
        "gate_up_proj_bias": torch.arange(8 * 64.0).reshape(8, 64).bfloat16(),
        "down_proj_blocks": down,
        "down_proj_scales": down_scale,
        "down_proj_bias": torch.zeros(8, 64).bfloat16(),
    }
    changes = {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}
    changes |= {"intermediate_size": 32, "sliding_window": 16, "layer_types": ["full_attention"]}
    changes |= {"quantization_config": {"quant_method": "mxfp4"}}
    folder = fused(tmp_path / "m", tensors, **changes)
    gate, up_half, down_half = gathered(folder)
    joined = convert_moe_packed_tensors(up, up_scale).float().mT
    assert torch.equal(gate, joined[:, ::2])
    assert torch.equal(up_half, joined[:, 1::2])
    assert torch.equal(down_half, convert_moe_packed_tensors(down, down_scale).float().mT)
    biases = expert_biases(Checkpoint(folder), catalog.read(folder), 0)
    assert biases["gate"].shape == biases["up"].shape == (8, 32)
    assert (biases["up"][0] != biases["gate"][0]).any()


N, K = 160, 256


def stored(folder, tensors):
    save_file(
        {f"m.{name}": t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors"
    )
    return matrix_of(Checkpoint(folder), "m", folder)


def agrees(matrix, kind, reference):
    assert isinstance(matrix, kind)
    np.testing.assert_allclose(matrix.decode(), reference.numpy(), rtol=1e-6, atol=0)


@pytest.fixture
def fp8():
    return (torch.randn(N, K) * 50).to(torch.float8_e4m3fn)


def test_fp8_in_blocks(tmp_path, fp8):
    scale = torch.rand(2, 2) + 0.1
    spread = scale.repeat_interleave(128, 0)[:N].repeat_interleave(128, 1)
    matrix = stored(tmp_path, {"weight": fp8, "weight_scale_inv": scale})
    agrees(matrix, Fp8Blocks, fp8.float() * spread)


def test_fp8_with_powers_of_two(tmp_path, fp8):
    scale = torch.tensor([[120, 121], [122, 126]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    spread = scale.float().repeat_interleave(128, 0)[:N].repeat_interleave(128, 1)
    agrees(stored(tmp_path, {"weight": fp8, "scale": scale}), Fp8Blocks, fp8.float() * spread)


@pytest.mark.parametrize("shape", [(N, 1), (1,), ()])
def test_fp8_by_row_or_as_a_whole(tmp_path, fp8, shape):
    scale = torch.rand(shape).bfloat16()
    matrix = stored(tmp_path, {"weight": fp8, "weight_scale": scale})
    agrees(matrix, Fp8Rows, fp8.float() * scale.float())


def test_mxfp8(tmp_path, fp8):
    scale = torch.randint(118, 130, (N, K // 32), dtype=torch.uint8)
    spread = scale.view(torch.float8_e8m0fnu).float().repeat_interleave(32, 1)
    agrees(
        stored(tmp_path, {"weight": fp8, "weight_scale_inv": scale}), MxFp8, fp8.float() * spread
    )


def packed(values, width, axis):
    """`width` 4-bit values to an integer, the first in the lowest bits."""
    parts = values.long().movedim(axis, -1).unflatten(-1, (-1, width))
    words = (parts << (4 * torch.arange(width))).sum(-1).movedim(-1, axis)
    dtype = torch.int32 if width == 8 else torch.uint8
    return torch.where(words >= 2**31, words - 2**32, words).to(dtype)


@pytest.fixture
def nibbles():
    return torch.randint(0, 16, (N, K))


def test_int4_in_groups(tmp_path, nibbles):
    scale = torch.rand(N, K // 32).bfloat16()
    tensors = {
        "weight_packed": packed(nibbles, 8, 1),
        "weight_scale": scale,
        "weight_shape": torch.tensor([N, K], dtype=torch.int32),
    }
    reference = (nibbles - 8) * scale.float().repeat_interleave(32, 1)
    agrees(stored(tmp_path, tensors), RawInt4, reference)


def test_gptq(tmp_path, nibbles):
    scale = torch.rand(K // 64, N).half()
    tensors = {
        "qweight": packed(nibbles.T, 8, 0),
        "qzeros": packed(torch.full((K // 64, N), 7), 8, 1),
        "scales": scale,
        "g_idx": (torch.arange(K) // 64).to(torch.int32),
    }
    reference = (nibbles - 8) * scale.float().repeat_interleave(64, 0).T
    agrees(stored(tmp_path, tensors), Gptq, reference)


@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
def test_zero_points_are_those_of_the_version_of_gptq(tmp_path, nibbles, checkpoint_format):
    scale, zeros = torch.rand(K // 64, N).half(), torch.randint(1, 16, (K // 64, N))
    held = zeros - int(checkpoint_format == "gptq")
    tensors = {
        "qweight": packed(nibbles.T, 8, 0),
        "qzeros": packed(held, 8, 1),
        "scales": scale,
    }
    settings = {"quantization_config": {"checkpoint_format": checkpoint_format}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    spread = [t.float().repeat_interleave(64, 0).T for t in (zeros, scale)]
    agrees(stored(tmp_path, tensors), Gptq, (nibbles - spread[0]) * spread[1])


E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E2M1 = torch.cat([E2M1, -E2M1])


def test_mxfp4(tmp_path, nibbles):
    scale = torch.randint(118, 130, (N, K // 32), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    tensors = {"weight": packed(nibbles, 2, 1).view(torch.int8), "scale": scale}
    reference = E2M1[nibbles] * scale.float().repeat_interleave(32, 1)
    agrees(stored(tmp_path, tensors), MxFp4, reference)


@pytest.mark.parametrize("style", ["modelopt", "compressed-tensors"])
def test_nvfp4(tmp_path, nibbles, style):
    scale = torch.rand(N, K // 16).to(torch.float8_e4m3fn)
    whole = torch.tensor(0.25)
    names = ("weight", "weight_scale", "weight_scale_2", whole)
    if style == "compressed-tensors":
        names = ("weight_packed", "weight_scale", "weight_global_scale", 1 / whole)
    tensors = dict(zip(names[:3], (packed(nibbles, 2, 1), scale, names[3]), strict=True))
    reference = E2M1[nibbles] * scale.float().repeat_interleave(16, 1) * whole
    agrees(stored(tmp_path, tensors), NvFp4, reference)


def test_a_format_that_is_not_known_is_named(tmp_path):
    with pytest.raises(FormatError, match=r"format of m is not known: it has weight \(I8\)"):
        stored(tmp_path, {"weight": torch.zeros(4, 4, dtype=torch.int8)})


def test_act_order_is_refused_by_name(tmp_path, nibbles):
    tensors = {
        "qweight": packed(nibbles.T, 8, 0),
        "scales": torch.rand(K // 64, N).half(),
        "g_idx": torch.randperm(K).to(torch.int32) // 64,
    }
    with pytest.raises(FormatError, match="act-order"):
        stored(tmp_path, tensors)


def test_a_layer_without_experts_is_named(tmp_path):
    folder = save_tiny("qwen3_moe", tmp_path / "m")
    with pytest.raises(KtError, match="layer 0 of m has no routed experts"):
        next(experts(Checkpoint(folder), catalog.read(folder), 0))


def test_tensors_come_as_torch_saved_them(tmp_path):
    tensors = {
        "a": torch.randn(3, 4).bfloat16(),
        "b": torch.randn(2, 2).to(torch.float8_e4m3fn),
        "c": torch.tensor(7),
        "d": torch.zeros(0, 3),
        "e": torch.tensor([True, False]),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        ours = checkpoint.get(name)
        assert ours.dtype == tensor.dtype
        assert ours.shape == tensor.shape
        assert ours.float().equal(tensor.float())
    assert not checkpoint["a"].flags.writeable
    with pytest.raises(NotFoundError, match="has no tensor x"):
        checkpoint.get("x")
