"""Reading safetensors and GGUF without their libraries, whole and damaged."""

import json

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kt_moe.files import FileError, GgufFile, MissingTensor, NotWhole, Tensors
from safetensors.torch import save_file


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "f": torch.randn(3, 5),
        "b": torch.randn(4, 2).bfloat16(),
        "q": torch.randn(6).to(torch.float8_e4m3fn),
        "e": torch.tensor([3], dtype=torch.uint8).view(torch.float8_e8m0fnu),
        "i": torch.arange(6, dtype=torch.int32).reshape(2, 3),
        "one": torch.tensor(2.5),
        "none": torch.empty(0, 3),
    }


def test_every_dtype_comes_with_its_bits(tensors, tmp_path):
    save_file({k: tensors[k] for k in "fbq"}, tmp_path / "a.safetensors")
    rest = {k: v for k, v in tensors.items() if k not in "fbq"}
    save_file(rest, tmp_path / "b.safetensors")
    ours = Tensors.open(tmp_path)
    assert set(ours) == set(tensors)
    for name, tensor in tensors.items():
        assert ours[name].shape == tuple(tensor.shape)
        flat = tensor.reshape(-1).view(torch.uint8).numpy()
        np.testing.assert_array_equal(ours[name].reshape(-1).view(np.uint8), flat)
    assert [ours.dtype(n) for n in "fbqe"] == ["F32", "BF16", "F8_E4M3", "F8_E8M0"]
    assert "b" in ours and "x" not in ours


def test_a_missing_tensor_and_a_missing_file_are_named(tensors, tmp_path):
    with pytest.raises(FileNotFoundError, match="no safetensors file"):
        Tensors.open(tmp_path)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(MissingTensor, match="has no tensor absent"):
        Tensors.open(tmp_path)["absent"]


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_file_cut_short_is_named(tensors, tmp_path, keep):
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(NotWhole, match=r"a\.safetensors is not a whole safetensors file"):
        Tensors.open(path)


def test_an_unknown_dtype_is_named(tmp_path):
    header = json.dumps({"x": {"dtype": "F6", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(FileError, match=r"tensor .x. has the unknown dtype .F6."):
        Tensors.open(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_damaged_safetensors_headers_never_crash(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("s") / "x.safetensors"
    path.write_bytes(len(body).to_bytes(8, "little") + body)
    try:
        Tensors.open(path)
    except FileError as error:
        assert "x.safetensors" in error.what


def test_a_gguf_file_gives_its_blocks(tmp_path):
    path = tmp_path / "x.gguf"
    weights = np.random.default_rng(0).standard_normal((2, 6, 64), dtype=np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("experts", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile.open(path)
    assert file.tensors["experts"].shape == (2, 6, 64)
    np.testing.assert_array_equal(file.raw("experts"), packed.reshape(-1))
    with pytest.raises(MissingTensor, match="has no tensor absent"):
        file.raw("absent")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(NotWhole, match=r"it ends at byte .* inside tensor experts"):
        GgufFile.open(path)
