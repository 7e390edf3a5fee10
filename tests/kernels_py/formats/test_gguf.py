"""GGUF blocks against the `gguf` package, over random bytes and over real weights."""

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from kt_moe.formats import FormatError, GgufBlocks, UnsupportedFormat
from kt_moe.formats.gguf import BLOCKS, TYPE_NAMES, dequantize

LEGACY = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "IQ4_NL", "IQ4_XS")
READABLE = (*LEGACY, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_random_blocks_decode_as_in_the_gguf_package(kind):
    blocks = np.random.default_rng(7).integers(0, 256, (64, BLOCKS[kind][1]), dtype=np.uint8)
    theirs = gguf.quants.dequantize(blocks, GGMLQuantizationType[kind])
    ours = dequantize(blocks.reshape(-1), kind)
    np.testing.assert_allclose(ours, theirs.reshape(-1).astype(np.float32), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0"])
def test_symmetric_formats_give_codes_without_loss(kind):
    weights = np.random.default_rng(8).standard_normal((6, 96)).astype(np.float32)
    raw = gguf.quants.quantize(weights, GGMLQuantizationType[kind])
    matrix = GgufBlocks(raw, kind, (6, 96))
    np.testing.assert_array_equal(matrix.codes().decode(), matrix.decode())


def test_block_sizes_equal_the_gguf_package():
    theirs = {t.value: (t.name, *GGML_QUANT_SIZES[t]) for t in GGMLQuantizationType}
    assert {code: (name, *BLOCKS[name]) for code, name in TYPE_NAMES.items()} == theirs


UNREADABLE = [n for n in BLOCKS if n[:2] in ("IQ", "TQ") and n not in LEGACY]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_types_that_cannot_be_read_are_refused_by_name(kind):
    with pytest.raises(UnsupportedFormat, match=f"GGUF type {kind} is not supported"):
        GgufBlocks(np.zeros(BLOCKS[kind][1], np.uint8), kind, (1, BLOCKS[kind][0]))


def test_bytes_that_do_not_make_the_shape_are_refused():
    with pytest.raises(FormatError, match=r"Q4_K weights have 143 bytes, \(1, 256\) takes 144"):
        GgufBlocks(np.zeros(143, np.uint8), "Q4_K", (1, 256))
    with pytest.raises(FormatError, match="rows of 128 weights are no multiple of Q4_K's 256"):
        GgufBlocks(np.zeros(144, np.uint8), "Q4_K", (2, 128))


def test_a_block_with_an_infinite_scale_is_refused():
    raw = np.zeros(34, np.uint8)
    raw[:2] = np.array([np.inf], np.float16).view(np.uint8)
    raw[2:] = 1
    with pytest.raises(FormatError, match="32 of 32 weights are NaN or infinite"):
        GgufBlocks(raw, "Q8_0", (1, 32)).decode()
