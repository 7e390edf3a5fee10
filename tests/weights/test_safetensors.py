"""What we write, the safetensors library reads; what it writes, we read; damage is named."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from kt_cli.errors import KtError, TransferError
from kt_cli.modelfiles import INDEX
from kt_cli.weights.floats import bf16_to_float32, float32_to_bf16
from kt_cli.weights.headers import TensorInfo, read_header
from kt_cli.weights.writer import write_checkpoint

KINDS = {"BF16": (np.uint16, torch.bfloat16), "F32": (np.float32, torch.float32)}


def arrays_for(infos, rng):
    return [rng.random(info.shape).astype(KINDS[info.dtype][0]) for info in infos]


def test_a_single_file_is_read_by_the_library(tmp_path):
    values = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    infos = [TensorInfo("a.weight", "BF16", (3, 5)), TensorInfo("b", "F32", (2,))]
    names = write_checkpoint(tmp_path, infos, [float32_to_bf16(values), np.ones(2, np.float32)])
    assert names == ["model.safetensors"]
    with safe_open(tmp_path / names[0], "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert torch.equal(file.get_tensor("a.weight"), torch.from_numpy(values).bfloat16())


shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(shapes, st.sampled_from(sorted(KINDS))), min_size=1, max_size=8),
    limit=st.integers(1, 300),
)
def test_shards_and_index_hold_every_tensor_once(tmp_path_factory, kinds, limit):
    folder = tmp_path_factory.mktemp("c")
    infos = [TensorInfo(f"t{i}", kind, shape) for i, (shape, kind) in enumerate(kinds)]
    arrays = arrays_for(infos, np.random.default_rng(0))
    names = write_checkpoint(folder, infos, arrays, limit)
    shards = [name for name in names if name != INDEX]
    where = {name: shard for shard in shards for name in read_header(folder / shard)}
    assert sorted(where) == sorted(info.name for info in infos)
    if len(shards) > 1:
        assert json.loads((folder / INDEX).read_text())["weight_map"] == where
    for info, array in zip(infos, arrays, strict=True):
        with safe_open(folder / where[info.name], "pt") as file:
            tensor = file.get_tensor(info.name)
        assert tensor.dtype == KINDS[info.dtype][1]
        assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("arrays", [[], [np.zeros(3, np.uint16)], [np.zeros(2, np.uint16)] * 2])
def test_data_that_was_not_announced_is_refused(tmp_path, arrays):
    with pytest.raises(ValueError, match=r"t0|more tensors"):
        write_checkpoint(tmp_path, [TensorInfo("t0", "BF16", (2,))], arrays)


def test_headers_of_the_library_are_read(tmp_path):
    tensors = {"x": torch.zeros(2, 3, dtype=torch.float8_e4m3fn), "y": torch.zeros(4).bfloat16()}
    save_file(tensors, tmp_path / "m.safetensors")
    found = read_header(tmp_path / "m.safetensors")
    assert {(t.name, t.dtype, t.shape, t.nbytes) for t in found.values()} == {
        ("x", "F8_E4M3", (2, 3), 6),
        ("y", "BF16", (4,), 8),
    }


def header(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "less than the length of a header": b"\1\2",
    "the limit": (10**12).to_bytes(8, "little") + bytes(50),
    "larger than the file": (500).to_bytes(8, "little") + bytes(50),
    "no JSON:": (4).to_bytes(8, "little") + b"{]]]",
    "no JSON object": (4).to_bytes(8, "little") + b"[1] ",
    "cut short": header({"x": GOOD}) + bytes(7),
    "its tensors end at": header({"x": GOOD}) + bytes(9),
    "'y' begins at": header({"x": GOOD, "y": {**GOOD, "data_offsets": [4, 12]}}) + bytes(12),
    "`x.data_offsets` is [0, -8]": header({"x": {**GOOD, "data_offsets": [0, -8]}}) + bytes(8),
    "is malformed": header({"x": {**GOOD, "shape": [1] * 17}}) + bytes(8),
    "of tensor 'x' is malformed": header({"x": {**GOOD, "data_offsets": []}}) + bytes(8),
    "tensor 'x' is malformed": header({"x": {**GOOD, "data_offsets": [8, 0]}}) + bytes(8),
    "`x` is [1]": header({"x": [1]}) + bytes(8),
    "nested more than": header({"x": eval("[" * 70 + "]" * 70)}) + bytes(8),
    "`x.shape` is 'wide'": header({"x": {**GOOD, "shape": "wide"}}) + bytes(8),
    "its shape 12": header({"x": {**GOOD, "shape": [3]}}) + bytes(8),
}


@pytest.mark.parametrize("why", DAMAGED)
def test_damage_is_named(tmp_path, why):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(DAMAGED[why])
    with pytest.raises(TransferError, match=r"broken\.safetensors is not a whole") as caught:
        read_header(path)
    assert why in caught.value.why


def test_an_unknown_dtype_is_named(tmp_path):
    path = tmp_path / "new.safetensors"
    path.write_bytes(header({"x": {**GOOD, "dtype": "F2"}}) + bytes(8))
    with pytest.raises(KtError, match=r"cannot read .*new.safetensors") as caught:
        read_header(path)
    assert "F2" in caught.value.why


@given(st.lists(st.floats(width=32), max_size=50))
def test_rounding_to_bf16_equals_torch(values):
    array = np.array(values, np.float32)
    ours = bf16_to_float32(float32_to_bf16(array))
    theirs = torch.from_numpy(array).bfloat16().float().numpy()
    np.testing.assert_array_equal(ours, theirs)
