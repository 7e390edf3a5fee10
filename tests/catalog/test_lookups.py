"""Look-up tables and layers of newer kinds, read from configurations and headers."""

import pytest
from tiny_models import BASE, write_checkpoint

from kt_cli import catalog
from kt_cli.catalog.attention import layer_kinds, read_attention
from kt_cli.catalog.config import Config
from kt_cli.catalog.experts import expert_layers
from kt_cli.catalog.naming import classify
from kt_cli.errors import KtError


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("model.layers.1.ple.ple_embedding.ngram_embedding.weight", "lookup"),
        ("model.language_model.layers.1.ple.ple_embedding.ngram_embedding.7.weight", "lookup"),
        ("layers.1.engram.embed.weight", "lookup"),
        ("layers.1.engram.embed.scale", "lookup"),
        ("per_layer_token_embd.weight", "lookup"),
        ("model.language_model.embed_tokens_per_layer.weight", "lookup"),
        ("model.layers.1.ple.key_proj.weight", "other"),
        ("layers.1.engram.wk.weight", "other"),
        ("mtp.2.markov_head.embed.weight", "draft"),
        ("mtp.0.ffn.experts.3.w1.weight", "draft"),
        ("model.layers.3.attn_hyper_connection.input_mix_weight_down.weight", "other"),
        ("model.layers.3.router.proj.weight", "router"),
        ("model.layers.3.pre_feedforward_layernorm_2.weight", "norm"),
        ("model.layers.3.mixer.in_proj.weight", "attention"),
        ("model.layers.3.mixer.gate.weight", "router"),
        ("model.layers.3.mixer.experts.5.up_proj.weight", "routed_experts"),
        ("model.layers.3.mixer.fc1_latent_proj.weight", "other"),
        ("model.layers.3.block_sparse_moe.routed_expert_down_proj.weight", "other"),
        ("model.embed_tokens.weight", "embedding"),
    ],
)
def test_names_of_newer_tensors_have_a_class(tensor, kind):
    assert classify(tensor, 40) == kind


ENGRAM = {"engram_layer_ids": [0], "engram_max_ngram_size": 4, "engram_n_heads": 2}
ENGRAM |= {"engram_head_dim": 8}
MOE = {**BASE, "model_type": "made_up_moe", "num_experts": 2, "num_experts_per_tok": 1}
MOE |= {"num_hidden_layers": 1, "moe_intermediate_size": 32}
EXPERTS = {
    f"model.layers.0.mlp.experts.{e}.{part}.weight": ("BF16", shape)
    for e in range(2)
    for part, shape in (("gate_proj", (32, 64)), ("up_proj", (32, 64)), ("down_proj", (64, 32)))
}


def test_rows_of_a_table_are_as_wide_as_the_file_stores_them(tmp_path):
    tables = {
        "model.layers.0.engram.embed.weight": ("F8_E4M3", (500, 8)),
        "model.layers.0.engram.embed.scale": ("F8_E8M0", (500, 1)),
    }
    model = catalog.read(write_checkpoint(tmp_path / "m", {**MOE, **ENGRAM}, {**EXPERTS, **tables}))
    assert model.bytes["lookup"] == 500 * 9
    assert (model.lookup_rows, model.lookup_row_bytes) == (3 * 2, 9)
    assert model.active_parameters < model.total_parameters - 500 * 8


def test_a_configuration_with_tables_and_a_file_without_them_reads_no_rows(tmp_path):
    model = catalog.read(write_checkpoint(tmp_path / "m", {**MOE, **ENGRAM}, EXPERTS))
    assert (model.lookup_rows, model.lookup_row_bytes) == (0, 0)


def config(**values):
    return Config.of({**BASE, "num_experts": 2, **values}, "a test")


def test_letters_and_lists_name_layers_that_do_one_thing_each():
    letters = config(hybrid_override_pattern="ME*-", num_hidden_layers=4)
    names = config(layers_block_type=["mamba", "moe", "attention", "mlp"], num_hidden_layers=4)
    for given in (letters, names):
        assert layer_kinds(given) == ["mamba", "moe", "full_attention", "mlp"]
        assert expert_layers(given) == (1,)


def test_a_letter_that_is_not_known_is_named():
    with pytest.raises(KtError, match="a test") as caught:
        layer_kinds(config(hybrid_override_pattern="MXE*", num_hidden_layers=4))
    assert "'X'" in caught.value.why


def test_layers_of_full_attention_are_counted_from_one():
    linear = {"num_heads": 2, "head_dim": 16, "short_conv_kernel_size": 4}
    given = config(linear_attn_config={**linear, "full_attn_layers": [4]}, num_hidden_layers=4)
    assert layer_kinds(given) == ["linear_attention"] * 3 + ["full_attention"]


def test_layers_with_experts_may_be_a_text_of_numbers():
    assert expert_layers(config(moe_layers_enum="1,3,4", num_hidden_layers=4)) == (1, 3)


SHARED = {"kv_source_layer_ids": [1, 2], "compress_ratios": [0, 2, 1, 1], "num_hidden_layers": 4}


@pytest.mark.parametrize(
    "change",
    [
        *({"kv_source_layer_ids": [wrong]} for wrong in (9, "x", 0, -1)),
        {"compress_ratios": [2]},
    ],
)
def test_sources_of_shared_keys_that_are_not_there_are_an_error(change):
    assert read_attention(config(**SHARED)).compressed_layers == ((1, 1), (1, 2))
    with pytest.raises(KtError):
        read_attention(config(**{**SHARED, **change}))
