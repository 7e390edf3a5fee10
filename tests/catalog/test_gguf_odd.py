"""GGUF files that are odd in one way: read rightly, or refused by file name, reason and remedy."""

import math
import os
import struct

import pytest
from gguf_bytes import H, moe, typed, write

from kt_cli import catalog
from kt_cli.errors import AuthError, KtError, NotFoundError, TransferError


def read(tmp_path, change=None, tensors=None, name="m.gguf", **kind):
    metadata, held = moe(**kind)
    held = tensors(held) if tensors else held
    return catalog.read(write(tmp_path / name, metadata | (change or {}), held))


def experts(change):
    """`change` maps (name, dims, type) of each stack of experts."""
    return lambda held: {n: change(n, *v) if "exps" in n else v for n, v in held.items()}


def one_each(held):
    found = {}
    for name, (dims, kind) in held.items():
        parts = range(dims[2]) if "exps" in name else ()
        alone = {name.replace("_exps", f".{e}"): (dims[:2], kind) for e in parts}
        found |= alone or {name: (dims, kind)}
    return found


Q = "qwen3moe."
WRONG = {
    "alignment 0": ({"general.alignment": 0}, None, "no power of two"),
    "alignment 48": ({"general.alignment": 48}, None, "no power of two"),
    "alignment NaN": ({"general.alignment": math.nan}, None, "no power of two"),
    "alignment text": ({"general.alignment": "32"}, None, "no power of two"),
    "no heads": ({f"{Q}attention.head_count": 0}, None, "attention.head_count"),
    "heads of all layers 0": ({f"{Q}attention.head_count_kv": [0, 0]}, None, "head_count_kv"),
    "heads of one layer": ({f"{Q}attention.head_count_kv": [2]}, None, "head_count_kv"),
    "heads as text": ({f"{Q}attention.head_count": "4"}, None, "attention.head_count"),
    "experts of each layer": ({f"{Q}expert_count": [4, 4]}, None, "expert_count"),
    "too many used": ({f"{Q}expert_used_count": 5}, None, "expert_used_count"),
    "none used": ({f"{Q}expert_used_count": 0}, None, "expert_used_count"),
    "no context": ({f"{Q}context_length": None}, None, "context_length"),
    "context NaN": ({f"{Q}context_length": math.nan}, None, "context_length"),
    "layers as list": ({f"{Q}block_count": [2]}, None, "block_count"),
    "layers without end": ({f"{Q}block_count": 10**9}, None, "block_count"),
    "layers negative": ({f"{Q}block_count": -1}, None, "block_count"),
    "width 0": ({f"{Q}embedding_length": 0}, None, "embedding_length"),
    "architecture as list": ({"general.architecture": ["qwen3moe"]}, None, "architecture"),
    "no architecture": ({"general.architecture": None}, None, "architecture"),
    "tokens as number": ({"tokenizer.ggml.tokens": 7}, None, "tokenizer.ggml.tokens"),
    "ik_llama's type": (None, experts(lambda n, d, t: (d, 139)), "only ik_llama.cpp knows"),
    "a removed type": (None, experts(lambda n, d, t: (d, 31)), "has removed"),
    "a type of the future": (None, experts(lambda n, d, t: (d, 77)), "is not known"),
    "a pruned layer": (
        None,
        experts(lambda n, d, t: ((d[0], d[1], 2) if "blk.1." in n else d, t)),
        "blk.1.ffn_gate_exps.weight is [2, 256, 256]",
    ),
    "a narrow layer": (
        None,
        experts(lambda n, d, t: ((d[0], 128, 4) if "blk.1.ffn_up" in n else d, t)),
        "blk.1.ffn_up_exps.weight",
    ),
    "experts as matrices": (None, experts(lambda n, d, t: (d[:2], t)), "ffn_gate_exps"),
    "experts as tensors of their own": (None, one_each, "a tensor of its own"),
    "no experts": (
        None,
        lambda held: {n: v for n, v in held.items() if "exps" not in n},
        "no `ffn_up_exps` tensors",
    ),
    "five axes": (None, lambda held: held | {"x": ((1, 1, 1, 1, 1), 0)}, "5 dimensions"),
    "rows of no whole blocks": (None, lambda held: held | {"x": ((100, 4), 12)}, "no multiple"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(tmp_path, kind):
    change, tensors, why = WRONG[kind]
    with pytest.raises(TransferError, match=r"m\.gguf") as caught:
        read(tmp_path, change, tensors)
    assert why in caught.value.why
    assert caught.value.fix


@pytest.mark.parametrize(("where", "number"), [("shape", 1 << 40), ("offset", 1 << 62)])
def test_a_tensor_beyond_the_file(tmp_path, where, number):
    metadata, tensors = moe()
    path = write(tmp_path / "m.gguf", metadata, tensors | {"last": ((H, 3), 0)})
    entry = struct.pack("<Q", 4) + b"last" + struct.pack("<I2QI", 2, H, 3, 0)
    content = path.read_bytes()
    place = content.index(entry) + (len(entry) if where == "offset" else 24)
    path.write_bytes(content[:place] + struct.pack("<Q", number) + content[place + 8 :])
    with pytest.raises(TransferError, match=r"m\.gguf") as caught:
        catalog.read(path)
    assert "inside tensor last" in caught.value.why


def test_text_that_is_not_utf8_does_not_matter(tmp_path):
    change = {"tokenizer.ggml.tokens": [b"a\xff\xfe"] * 64, "general.name": b"caf\xe9"}
    assert read(tmp_path, change).vocab == 64


def test_one_expert_alone_is_a_matrix(tmp_path):
    plain = read(tmp_path, experts=1)
    drop = experts(lambda n, d, t: (d[:2], t))
    assert read(tmp_path, tensors=drop, experts=1).experts == plain.experts


WINDOWS = [
    ("qwen3moe", {"sliding_window": 512}, 4096, (2, 0, 1)),
    ("phimoe", {"sliding_window": 4096}, 4096, (2, 0, 0)),
    ("phimoe", {"sliding_window": 512}, 4096, (2, 0, 0)),
    ("llama", {"sliding_window": 512}, 4096, (2, 0, 0)),
    ("gpt-oss", {"sliding_window": 128}, 4096, (1, 1, 0)),
    ("gpt-oss", {"sliding_window": 0}, 4096, (2, 0, 0)),
    ("deepseek4", {"sliding_window": 128}, 4096, (0, 2, 0)),
    ("llama4", {"sliding_window": 8192}, 8192, (2, 0, 0)),
    ("qwen3moe", {"sliding_window": 512, "sliding_window_pattern": [True, False]}, 4096, (1, 1, 0)),
    ("qwen3moe", {"sliding_window": 512, "sliding_window_pattern": [1, 1]}, 4096, (0, 2, 0)),
    ("qwen3moe", {"sliding_window": 512, "sliding_window_pattern": [True]}, 4096, (2, 0, 1)),
    ("qwen3moe", {"sliding_window": 512, "sliding_window_pattern": "LG"}, 4096, (2, 0, 1)),
    ("qwen3moe", {"sliding_window": 512, "sliding_window_pattern": 2}, 4096, (1, 1, 0)),
    ("gemma3", {"sliding_window": 512, "sliding_window_pattern": 2}, 4096, (1, 1, 0)),
    ("smallthinker", {"sliding_window": 512}, 4096, (1, 1, 0)),
]


@pytest.mark.parametrize(("arch", "keys", "context", "counts"), WINDOWS)
def test_windows_with_and_without_a_pattern(tmp_path, arch, keys, context, counts):
    change = {f"{arch}.attention.{key}": value for key, value in keys.items()}
    model = read(tmp_path, change, arch=arch, context=context)
    attention = model.attention
    found = (attention.full_layers, attention.window_layers, len(model.notes))
    assert found == counts
    if counts[2]:
        assert "sliding_window_pattern" in model.notes[0]


def test_the_layer_that_keeps_every_token_is_the_first_or_the_last(tmp_path):
    from kt_cli.catalog.config import Config
    from kt_cli.catalog.gguf_windows import gguf_windows

    def layers(kind):
        values = {"block_count": 6, "context_length": 4096, "attention.sliding_window": 8}
        return gguf_windows(Config("x", {**values, "model_type": kind}, {})).layers

    assert layers("laguna") == (False, True, True, True, False, True)
    assert layers("exaone4") == (True, True, True, False, True, True)


def test_a_layer_without_keys_keeps_nothing(tmp_path):
    attention = read(tmp_path, {f"{Q}attention.head_count_kv": [2, 0]}).attention
    assert (attention.full_layers, attention.linear_layers, attention.kv_heads) == (1, 0, 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"general.architecture": "clip"}, "vision tower"),
        ({"general.type": "mmproj"}, "vision tower"),
        ({"general.type": "adapter"}, "'adapter'"),
        ({"general.type": "imatrix"}, "'imatrix'"),
        ({"split.count": 3}, "one of 3 files"),
    ],
)
def test_what_is_no_model_or_a_part_of_one_is_said(tmp_path, change, why):
    with pytest.raises(NotFoundError, match=r"m\.gguf") as caught:
        read(tmp_path, change)
    assert why in caught.value.why
    assert caught.value.fix


def header(*pairs, tensors=0, keys=None):
    count = len(pairs) if keys is None else keys
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + b"".join(pairs)


def key(name, value):
    return struct.pack("<Q", len(name)) + name + value


NESTED = struct.pack("<IQ", 9, 1) * 100_000
HEADERS = {
    "tensors without end": header(tensors=1 << 62),
    "keys without end": header(keys=1 << 62),
    "a text without end": header(struct.pack("<Q", 1 << 62)),
    "a list without end": header(key(b"a", struct.pack("<IIQ", 9, 4, 1 << 62))),
    "bytes without end": header(key(b"a", struct.pack("<IIQ", 9, 0, 1 << 40))),
    "lists in lists": header(key(b"a", struct.pack("<I", 9) + NESTED)),
    "an unknown type": header(key(b"a", struct.pack("<I", 77))),
    "a key twice": header(key(b"a", typed(1)), key(b"a", typed(1))),
    "nothing": header(),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_makes_no_sense_is_refused_before_memory_is_taken(tmp_path, kind):
    path = tmp_path / "m.gguf"
    path.write_bytes(HEADERS[kind] + bytes(64))
    with pytest.raises(KtError) as caught:
        catalog.read(path)
    assert "m.gguf" in caught.value.what
    assert caught.value.why
    assert caught.value.fix


def test_what_is_no_regular_file(tmp_path, monkeypatch):
    folder, pipe = tmp_path / "folder.gguf", tmp_path / "pipe.gguf"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        with pytest.raises(KtError, match=path.name):
            catalog.read(path)
    path = write(tmp_path / "m.gguf", *moe())

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AuthError, match=r"m\.gguf"):
        catalog.read(path)
