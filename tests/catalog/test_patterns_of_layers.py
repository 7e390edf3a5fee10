"""Per-layer patterns under every name and shape: read rightly, or said and planned as full."""

import pytest

from kt_cli.catalog.attention import attention_notes, read_attention
from kt_cli.catalog.config import Config
from kt_cli.errors import TransferError

LAYERS = 48
BASE = {
    "model_type": "new_moe",
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "hidden_size": 4096,
    "max_position_embeddings": 262144,
}
WINDOW = {"sliding_window": 128}
SIXTH = [0 if i % 6 == 5 else 1 for i in range(LAYERS)]
NAMES = ["local" if on else "global" for on in SIXTH]
DELTA = {
    "linear_num_value_heads": 32, "linear_value_head_dim": 128, "linear_num_key_heads": 16,
    "linear_key_head_dim": 128, "linear_conv_kernel_dim": 4,
}  # fmt: skip
KNOWN = {
    "hybrid_layer_pattern": ({**WINDOW, "hybrid_layer_pattern": SIXTH}, (8, 40, 0)),
    "of true and false": ({**WINDOW, "hybrid_layer_pattern": [*map(bool, SIXTH)]}, (8, 40, 0)),
    "every fourth": ({**WINDOW, "sliding_window_pattern": 4}, (12, 36, 0)),
    "every sixth, hidden": ({**WINDOW, "_sliding_window_pattern": 6}, (8, 40, 0)),
    "every one": ({**WINDOW, "sliding_window_pattern": 1}, (48, 0, 0)),
    "letters": ({**WINDOW, "sliding_window_pattern": "LLLG"}, (12, 36, 0)),
    "letters that do not divide": ({**WINDOW, "sliding_window_pattern": "LLLLG"}, (9, 39, 0)),
    "letters of all layers": ({**WINDOW, "sliding_window_pattern": "LG" * 24}, (24, 24, 0)),
    "a list as pattern": ({**WINDOW, "sliding_window_pattern": SIXTH}, (8, 40, 0)),
    "sliding_window_layout": ({**WINDOW, "sliding_window_layout": SIXTH}, (8, 40, 0)),
    "attention_layers": ({**WINDOW, "attention_layers": NAMES}, (8, 40, 0)),
    "attn_type_list": ({"attn_type_list": [int(i % 8 == 7) for i in range(LAYERS)]}, (6, 0, 42)),
    "full_attention_interval": ({**DELTA, "full_attention_interval": 4}, (12, 0, 36)),
    "layer_group_size": ({**DELTA, "layer_group_size": 8}, (6, 0, 42)),
    "layer_types": (
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 24},
        (24, 24, 0),
    ),
    "layer_types beside another": (
        {**WINDOW, "layer_types": ["full_attention"] * LAYERS, "new_pattern": "XY"},
        (48, 0, 0),
    ),
    "chunks": ({"attention_chunk_size": 8192}, (12, 36, 0)),
    "a window as long as the context": (
        {"sliding_window": 262144, "sliding_window_pattern": 4},
        (48, 0, 0),
    ),
    "a window that is not used": ({**WINDOW, "use_sliding_window": False}, (48, 0, 0)),
    "a window from a layer on": (
        {**WINDOW, "use_sliding_window": True, "max_window_layers": 40},
        (40, 8, 0),
    ),
    "Mixtral's window": ({**WINDOW, "model_type": "mixtral"}, (0, 48, 0)),
    "none": ({"sliding_window": None, "sliding_window_pattern": None}, (48, 0, 0)),
    "lists about something else": (
        {
            "rope_theta": [1e4, 1e6] * 24,
            "moe_layer_freq": [0, *[1] * 47],
            "swiglu_limits": [0, 7] * 24,
            "eos_token_id": [1, 2],
            "partial_rotary_factors": [0, 1] * 24,
        },
        (48, 0, 0),
    ),
}
UNKNOWN = {
    "letters": {**WINDOW, "sliding_window_pattern": "LXQ"},
    "numbers": {**WINDOW, "hybrid_layer_pattern": [2, 3] * 24},
    "a list that is too short": {**WINDOW, "hybrid_layer_pattern": [0, 1]},
    "a number out of range": {**WINDOW, "sliding_window_pattern": -1},
    "a fraction": {**WINDOW, "sliding_window_pattern": 2.5},
    "an object": {**WINDOW, "sliding_window_pattern": {"every": 4}},
    "a new name": {**WINDOW, "attention_pattern": ["x", "y"]},
    "another new name": {"block_types": ["recurrent", "attention"]},
    "global layers by number": {**WINDOW, "global_attn_layers": [5, 11]},
    "a period": {"attn_layer_period": 8, "attn_layer_offset": 4},
    "every so many": {**WINDOW, "global_attn_every_n_layers": 3},
    "a list for each layer": {"flavours": ["a", "b"] * 24},
    "a list of numbers for each layer": {**WINDOW, "reach": [128, -1] * 24},
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_pattern_is_read(name):
    keys, counts = KNOWN[name]
    config = Config.of({**BASE, **keys}, "x")
    found = read_attention(config)
    assert (found.full_layers, found.window_layers, found.linear_layers) == counts
    assert bool(found.linear_state_bytes) == bool(counts[2])
    assert attention_notes(config) == ()


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_pattern_is_said_and_planned_as_full(name):
    config = Config.of({**BASE, **UNKNOWN[name]}, "x")
    found = read_attention(config)
    assert (found.full_layers, found.window_layers, found.linear_layers) == (LAYERS, 0, 0)
    (note,) = attention_notes(config)
    assert any(key in note for key in UNKNOWN[name] if key != "sliding_window")
    assert "not understood" in note
    assert len(note) < 300


def test_a_window_of_unknown_layers_is_said():
    config = Config.of({**BASE, **WINDOW}, "x")
    assert read_attention(config).full_layers == LAYERS
    assert "128 tokens" in attention_notes(config)[0]


def test_layers_with_a_window_may_have_heads_of_their_own():
    keys = {**WINDOW, "hybrid_layer_pattern": SIXTH, "swa_num_key_value_heads": 8}
    found = read_attention(Config.of({**BASE, **keys, "swa_head_dim": 192}, "x"))
    assert (found.kv_heads, found.head_dim) == (8, 192)
    assert (found.global_kv_heads, found.global_head_dim) == (4, 128)


@pytest.mark.parametrize(
    "keys",
    [
        {"layer_types": ["quantum"] * LAYERS},
        {"layer_types": [{}] * LAYERS},
        {"layer_types": ["full_attention"]},
        {"layer_types": "full_attention"},
        {"compress_ratios": [[]] * LAYERS},
        {"compress_ratios": [5] * LAYERS},
        {"full_attention_interval": 0},
        {"attention_chunk_size": 8, "no_rope_layer_interval": 0},
        {"sparse_attention_config": {"sparse_attention_freq": "1"}},
        {"linear_attn_config": {"full_attn_layers": ["a"]}},
        {"hybrid_override_pattern": "M?"},
        {"hybrid_override_pattern": ["M"]},
        {"layers_block_type": [1] * LAYERS},
        {"sliding_window": [128] * LAYERS},
        {"sliding_window": 1.5},
        {"use_sliding_window": "no", "sliding_window": 8},
    ],
)
def test_what_makes_no_sense_is_named(keys):
    with pytest.raises(TransferError, match="cannot read x") as caught:
        read_attention(Config.of({**BASE, **keys}, "x"))
    assert caught.value.why
    assert caught.value.fix
