"""GGUF files written by the `gguf` package, described as models."""

import gguf
import numpy as np
import pytest

from kt_cli import catalog
from kt_cli.errors import KtError, NotFoundError

H, W, E = 256, 256, 4


def write(path, kind, numbers, tensors):
    writer = gguf.GGUFWriter(path, kind)
    for key, value in numbers.items():
        if isinstance(value, list):
            writer.add_array(f"{kind}.{key}", value)
        else:
            writer.add_uint32(f"{kind}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a"] * 16)
    for name, (shape, quant) in tensors.items():
        if quant == "F32":
            writer.add_tensor(name, np.zeros(shape, np.float32))
            continue
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[quant]]
        data = np.zeros((*shape[:-1], shape[-1] // block * size), np.uint8)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[quant])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BASE = {
    "block_count": 1,
    "embedding_length": H,
    "context_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "expert_count": E,
    "expert_used_count": 2,
}
COMMON = {
    "token_embd.weight": ((16, H), "Q8_0"),
    "output.weight": ((16, H), "Q6_K"),
    "output_norm.weight": ((H,), "F32"),
    "blk.0.attn_norm.weight": ((H,), "F32"),
    "blk.0.ffn_gate_inp.weight": ((E, H), "F32"),
    "blk.0.ffn_gate_exps.weight": ((E, W, H), "Q4_K"),
    "blk.0.ffn_up_exps.weight": ((E, W, H), "Q4_K"),
    "blk.0.ffn_down_exps.weight": ((E, H, W), "Q6_K"),
    "blk.0.ffn_up_shexp.weight": ((W, H), "Q4_K"),
}
GROUPED = {"blk.0.attn_q.weight": ((H, H), "Q4_K"), "blk.0.attn_k.weight": ((H // 2, H), "Q4_K")}


def test_experts_and_sizes_come_from_the_tensors(tmp_path):
    model = catalog.read(write(tmp_path / "m.gguf", "qwen3moe", BASE, COMMON | GROUPED))
    weights = E * W * H
    assert model.parameters["routed_experts"] == 3 * weights
    assert model.bytes["routed_experts"] == weights // 256 * (144 + 144 + 210)
    assert model.bytes["shared_experts"] == W * H // 256 * 144
    assert model.bytes["router"] == E * H * 4
    assert model.bytes["lm_head"] == 16 * H // 256 * 210
    assert (model.experts.count, model.experts.top_k, model.experts.layers) == (E, 2, (0,))
    assert (model.experts.hidden, model.experts.intermediate, model.experts.shared) == (H, W, 1)
    assert (model.attention.heads, model.attention.kv_heads, model.attention.head_dim) == (4, 2, 64)
    assert model.quantization.method == "gguf"
    assert model.quantization.details == "Q4_K, Q6_K"
    assert model.vocab == 16
    assert model.notes == ()


def test_latent_attention_and_a_draft_layer(tmp_path):
    numbers = {
        **BASE,
        "attention.kv_lora_rank": 32,
        "attention.key_length_mla": 24,
        "attention.value_length_mla": 20,
        "rope.dimension_count": 8,
    }
    extra = {
        "blk.0.attn_kv_a_mqa.weight": ((40, H), "Q8_0"),
        "blk.1.nextn.eh_proj.weight": ((H, 2 * H), "Q8_0"),
        "blk.1.attn_q_a.weight": ((32, H), "Q8_0"),
    }
    model = catalog.read(write(tmp_path / "m.gguf", "deepseek2", numbers, COMMON | extra))
    attention = model.attention
    assert (attention.kind, attention.kv_lora_rank, attention.rope_dim) == ("mla", 32, 8)
    assert (attention.head_dim, attention.v_head_dim) == (24, 20)
    assert model.parameters["draft"] == 2 * H * H + 32 * H


def test_linear_layers_have_a_state(tmp_path):
    numbers = {
        **BASE,
        "block_count": 2,
        "attention.head_count_kv": [0, 2],
        "ssm.state_size": 16,
        "ssm.inner_size": 64,
        "ssm.group_count": 2,
        "ssm.conv_kernel": 4,
    }
    extra = {"blk.0.ssm_out.weight": ((H, 256), "Q8_0"), "blk.1.attn_q.weight": ((H, H), "Q8_0")}
    model = catalog.read(write(tmp_path / "m.gguf", "qwen3next", numbers, COMMON | extra))
    attention = model.attention
    assert (attention.full_layers, attention.linear_layers, attention.kv_heads) == (1, 1, 2)
    assert attention.linear_state_bytes == 4 * 64 * 16 + 2 * 3 * (2 * 16 * 2 + 64)


def test_a_numbered_series_is_one_model(tmp_path):
    names = list(COMMON)
    write(tmp_path / "m-00001-of-00002.gguf", "qwen3moe", BASE, {n: COMMON[n] for n in names[:4]})
    second = tmp_path / "m-00002-of-00002.gguf"
    write(second, "qwen3moe", {}, {n: COMMON[n] for n in names[4:]})
    assert catalog.read(tmp_path).experts.count == E
    second.unlink()
    with pytest.raises(NotFoundError, match="not complete"):
        catalog.read(tmp_path)


def test_two_models_in_a_folder_are_told_apart(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path / name, "qwen3moe", BASE, COMMON)
    with pytest.raises(KtError, match="several models"):
        catalog.read(tmp_path)
    assert catalog.read(tmp_path / "b.gguf").name == "b"


def test_metadata_that_lacks_what_a_plan_needs_is_named(tmp_path):
    numbers = {key: value for key, value in BASE.items() if key != "context_length"}
    with pytest.raises(KtError) as caught:
        catalog.read(write(tmp_path / "m.gguf", "qwen3moe", numbers, COMMON))
    assert "context_length" in caught.value.why
