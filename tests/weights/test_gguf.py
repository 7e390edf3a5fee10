"""Files written by the `gguf` package are read back; what is not whole is named."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli.errors import KtError, NotFoundError, TransferError
from kt_cli.weights.gguf import GgufFile


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 1e6)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġzürich"])
    writer.add_array("some.numbers", [1, -2, 3])
    writer.add_bool("some.flag", True)
    weights = np.random.default_rng(0).standard_normal((6, 64), dtype=np.float32)
    writer.add_tensor("plain", weights)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, weights


def test_metadata_and_tensors_are_read(sample):
    path, weights = sample
    file = GgufFile.open(path)
    assert file.metadata["general.architecture"] == "llama"
    assert file.metadata["llama.block_count"] == 3
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "Ġzürich"]
    assert file.metadata["some.numbers"] == [1, -2, 3]
    assert file.metadata["some.flag"] is True
    np.testing.assert_array_equal(file.get("plain"), weights)
    assert np.abs(file.get("packed") - weights).max() < 0.02
    assert file.tensors["packed"].shape == (6, 64)
    assert file.tensors["packed"].nbytes == 6 * 2 * 34
    assert file.tensors["packed"].parameters == 384


@pytest.mark.parametrize("cut", [0, 3, 20, 60, 200, -40])
def test_a_file_cut_short_is_named(sample, cut):
    path, _ = sample
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TransferError, match=r"sample\.gguf is not a whole GGUF file"):
        GgufFile.open(path)


def test_another_format_is_named(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(TransferError) as caught:
        GgufFile.open(path)
    assert "magic" in caught.value.why


def test_a_version_of_the_future_is_refused(sample):
    path, _ = sample
    content = bytearray(path.read_bytes())
    content[4] = 9
    path.write_bytes(content)
    with pytest.raises(KtError, match="cannot read") as caught:
        GgufFile.open(path)
    assert "version is 9" in caught.value.why


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        GgufFile.open(tmp_path / "none.gguf")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_headers_never_crash(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("g") / "x.gguf"
    body = data.draw(st.binary(max_size=200))
    path.write_bytes(b"GGUF\x03\0\0\0" + body)
    try:
        GgufFile.open(path)
    except KtError as error:
        assert "x.gguf" in error.what
