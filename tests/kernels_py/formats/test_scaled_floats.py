"""FP8, MXFP4, MXFP8 and NVFP4 against torch's float8 dtypes and the `gguf` package."""

import gguf
import kt_moe
import numpy as np
import pytest
import torch
from kt_moe.formats import (
    FormatError,
    Fp8Blocks,
    Fp8Rows,
    MxFp4,
    NvFp4,
    fp8_blocks,
    fp8_rows,
    mxfp4,
    mxfp8,
    nvfp4,
    relative_error,
)

RNG = np.random.default_rng(6)
WEIGHTS = (RNG.standard_normal((96, 256)) * 0.02).astype(np.float32)


def as_torch(codes, dtype=torch.float8_e4m3fn):
    return torch.from_numpy(codes).view(dtype).float()


def test_fp8_blocks_decode_as_a_loop_over_blocks_in_torch():
    weight = RNG.integers(0, 127, (200, 300), dtype=np.uint8)
    scale = RNG.random((2, 3)).astype(np.float32)
    expected = as_torch(weight)
    for i in range(2):
        for j in range(3):
            expected[i * 128 : (i + 1) * 128, j * 128 : (j + 1) * 128] *= scale[i, j]
    np.testing.assert_array_equal(Fp8Blocks(weight, scale).decode(), expected.numpy())


def test_fp8_rows_decode_as_in_torch():
    weight, scale = RNG.integers(0, 127, (8, 16), dtype=np.uint8), RNG.random(8, np.float32)
    expected = as_torch(weight) * torch.from_numpy(scale)[:, None]
    np.testing.assert_array_equal(Fp8Rows(weight, scale).decode(), expected.numpy())
    np.testing.assert_array_equal(Fp8Rows(weight, scale[:, None]).decode(), expected.numpy())


@pytest.mark.parametrize(
    ("quantize", "limit"),
    [(fp8_blocks, 0.03), (fp8_rows, 0.03), (mxfp8, 0.035), (mxfp4, 0.13), (nvfp4, 0.11)],
)
def test_quantising_keeps_the_error_of_the_format(quantize, limit):
    assert relative_error(WEIGHTS, quantize(WEIGHTS).decode()) < limit


@pytest.mark.parametrize("quantize", [fp8_blocks, fp8_rows, mxfp8, mxfp4, nvfp4])
def test_quantising_a_second_time_changes_nothing(quantize):
    once = quantize(WEIGHTS).decode()
    np.testing.assert_allclose(quantize(once).decode(), once, rtol=1e-6)


def test_quantised_values_are_where_torch_puts_them():
    ours = fp8_rows(WEIGHTS)
    theirs = (torch.from_numpy(WEIGHTS) / torch.from_numpy(ours.scale)).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(ours.weight, theirs.view(torch.uint8).numpy())


def test_mxfp4_decodes_as_the_blocks_of_gguf():
    """GGUF keeps the same codes and exponents, one exponent byte before 16 bytes of 32 codes."""
    kind = gguf.GGMLQuantizationType.MXFP4
    blocks = gguf.quants.quantize(WEIGHTS, kind)
    theirs = gguf.quants.dequantize(blocks, kind)
    parts = blocks.reshape(96, 8, 17)
    low_high = np.concatenate([parts[:, :, 1:] & 15, parts[:, :, 1:] >> 4], axis=2)
    codes = low_high.reshape(96, 256)
    ours = MxFp4(codes[:, 0::2] | codes[:, 1::2] << 4, parts[:, :, 0].copy())
    np.testing.assert_allclose(ours.decode(), theirs, rtol=1e-6)


@pytest.mark.parametrize(("name", "quantize"), [("mxfp4", mxfp4), ("nvfp4", nvfp4)])
def test_the_kernels_quantise_to_fp4_as_this_does(kernels, name, quantize):
    """On equal rows: the kernels give every row a factor of nvfp4, the file one to all."""
    rows = np.ascontiguousarray(WEIGHTS[:1, :64].repeat(64, axis=0))
    experts = kt_moe.Experts(1, 64, 64, format=name, top_k=1)
    experts.set_expert(0, rows, rows, rows)
    np.testing.assert_allclose(experts.dequantised(0)[0], quantize(rows).decode(), rtol=1e-6)


def test_nvfp4_multiplies_both_scales():
    weight = np.array([[0x52, 0xA7, 0, 0, 0, 0, 0, 0]], np.uint8)
    scale = torch.tensor([[1.5]]).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    out = NvFp4(weight, scale, 0.25).decode()
    np.testing.assert_allclose(out[0, :4], np.array([1.0, 3.0, 6.0, -1.0]) * 1.5 * 0.25)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Fp8Blocks(np.zeros((200, 300), np.uint8), np.ones((2, 2))), r"not \(2, 3\)"),
        (lambda: Fp8Rows(np.zeros((4, 8), np.uint8), np.ones(3)), r"not \(4, 1\)"),
        (lambda: Fp8Rows(np.zeros((2, 8), np.uint8), np.array([1, np.nan])), "1 of 2 scales"),
        (lambda: MxFp4(np.zeros((2, 20), np.uint8), np.zeros((2, 1), np.uint8)), "no multiple"),
        (lambda: MxFp4(np.zeros((2, 16), np.uint8), np.zeros((2, 2), np.uint8)), r"not \(2, 1\)"),
        (
            lambda: MxFp4(np.zeros((2, 16), np.uint8), np.full((2, 1), 255, np.uint8)),
            "2 of 2 scales are NaN",
        ),
        (
            lambda: NvFp4(np.zeros((1, 8), np.uint8), np.full((1, 1), 127, np.uint8), 1.0),
            "1 of 1 scales are NaN",
        ),
        (lambda: mxfp4(np.full((1, 32), np.nan)), "32 of 32 weights are NaN"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_fact(build, message):
    with pytest.raises(FormatError, match=message):
        build()
