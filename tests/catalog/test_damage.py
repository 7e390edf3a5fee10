"""Every way in which a folder can be broken has a name."""

import json

import pytest
from tiny_models import write_checkpoint, write_headers

from kt_cli import catalog
from kt_cli.errors import KtError, NotFoundError, TransferError

CONFIG = {
    "model_type": "mixtral",
    "vocab_size": 8,
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 6,
    "num_local_experts": 1,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 16,
}
NAME = "model.layers.0.block_sparse_moe.experts.0"
FIRST = {"model.embed_tokens.weight": ("BF16", (8, 4)), f"{NAME}.w1.weight": ("BF16", (6, 4))}
SECOND = {f"{NAME}.w2.weight": ("BF16", (4, 6)), f"{NAME}.w3.weight": ("BF16", (6, 4))}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for name, tensors in zip(SHARDS, (FIRST, SECOND), strict=True):
        write_headers(tmp_path / name, tensors)
    write_index(tmp_path, dict.fromkeys(FIRST, SHARDS[0]) | dict.fromkeys(SECOND, SHARDS[1]))
    return tmp_path


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_a_sharded_checkpoint_is_read(folder):
    model = catalog.read(folder)
    assert model.bytes == {"routed_experts": 3 * 24 * 2, "embedding": 64}
    assert model.path == str(folder)


def test_a_shard_cut_short(folder):
    shard = folder / SHARDS[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(TransferError, match=SHARDS[1]) as caught:
        catalog.read(folder)
    assert "cut short" in caught.value.why


def test_a_shard_that_is_not_there(folder):
    (folder / SHARDS[1]).unlink()
    with pytest.raises(NotFoundError, match="not complete") as caught:
        catalog.read(folder)
    assert SHARDS[1] in caught.value.why


def test_an_index_that_is_not_there(folder):
    (folder / INDEX).unlink()
    with pytest.raises(NotFoundError, match=INDEX):
        catalog.read(folder)


def test_a_shard_that_the_index_does_not_know(folder):
    write_index(folder, dict.fromkeys(FIRST, SHARDS[0]))
    with pytest.raises(TransferError) as caught:
        catalog.read(folder)
    assert SHARDS[1] in caught.value.why


def test_a_tensor_that_is_not_where_the_index_says(folder):
    write_index(folder, dict.fromkeys([*FIRST, *SECOND, "lost"], SHARDS[0]) | {"x": SHARDS[1]})
    with pytest.raises(TransferError, match="does not hold"):
        catalog.read(folder)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", 3])
def test_an_index_that_leads_elsewhere(folder, name):
    write_index(folder, {"x": name})
    with pytest.raises(KtError) as caught:
        catalog.read(folder)
    assert INDEX in caught.value.what
    assert "folder" in caught.value.why or "text" in caught.value.why


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", '{"weight_map": []}', "{}"])
def test_an_index_that_is_no_index(folder, text):
    (folder / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(TransferError, match=INDEX):
        catalog.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_configuration_that_is_no_json(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(TransferError, match=r"config\.json"):
        catalog.read(folder)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(NotFoundError, match=str(tmp_path)) as caught:
        catalog.read(tmp_path)
    assert "config.json" in caught.value.fix


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(NotFoundError, match="no safetensors"):
        catalog.read(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(NotFoundError, match="no model at"):
        catalog.read(tmp_path / "none")


def test_a_single_file_needs_no_index(tmp_path):
    folder = write_checkpoint(tmp_path / "one", CONFIG, FIRST | SECOND)
    assert catalog.read(folder).experts.count == 1
