"""Packed INT4 checkpoints against scalar loops over their published bit layouts."""

import numpy as np
import pytest
from kt_moe.formats import Awq, FormatError, Gptq, RawInt4, UnsupportedFormat, gptq, int4, rawint4
from kt_moe.formats.codes import Codes

RNG = np.random.default_rng(7)
N, K, GROUP = 16, 64, 32
VALUES = RNG.integers(-8, 8, (N, K)).astype(np.int8)
SCALES = RNG.random((N, K // GROUP)).astype(np.float32)
WEIGHTS = VALUES * SCALES.repeat(GROUP, 1)


def words(rows, columns, nibble):
    """Packs `nibble(word row, word column, slot)` into int32."""
    out = np.zeros((rows, columns), np.uint32)
    for i in range(rows):
        for j in range(columns):
            for slot in range(8):
                out[i, j] |= np.uint32(nibble(i, j, slot) << 4 * slot)
    return out.view(np.int32)


def test_rawint4_is_read_from_words_and_from_bytes():
    packed = words(N, K // 8, lambda i, j, s: int(VALUES[i, 8 * j + s]) + 8)
    for weight in (packed, packed.view(np.uint8)):
        matrix = RawInt4(weight, SCALES)
        assert matrix.shape == (N, K)
        np.testing.assert_array_equal(matrix.codes().values, VALUES)
        np.testing.assert_allclose(matrix.decode(), WEIGHTS)


@pytest.mark.parametrize("zero", [None, 7, 8])
def test_gptq_is_read_along_the_columns(zero):
    packed = words(K // 8, N, lambda i, j, s: int(VALUES[j, 8 * i + s]) + 8)
    zeros = None if zero is None else words(K // GROUP, N // 8, lambda i, j, s: zero)
    matrix = Gptq(packed, SCALES.T.copy(), zeros, np.arange(K) // GROUP)
    assert matrix.shape == (N, K)
    np.testing.assert_array_equal(matrix.codes().values, VALUES)
    np.testing.assert_allclose(matrix.decode(), WEIGHTS)


def test_awq_takes_zero_points_and_its_order_of_columns():
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    codes = RNG.integers(0, 16, (K, N))
    zeros = RNG.integers(0, 16, (K // GROUP, N))
    qweight = words(K, N // 8, lambda i, j, s: int(codes[i, 8 * j + order[s]]))
    qzeros = words(K // GROUP, N // 8, lambda i, j, s: int(zeros[i, 8 * j + order[s]]))
    expected = (codes - zeros.repeat(GROUP, 0)) * SCALES.T.repeat(GROUP, 0)
    matrix = Awq(qweight, qzeros, SCALES.T.copy())
    assert matrix.shape == (N, K)
    np.testing.assert_allclose(matrix.decode(), expected.T, rtol=1e-6)


@pytest.mark.parametrize("pack", [rawint4, gptq])
def test_packing_and_reading_gives_the_codes_back(pack):
    codes = int4(RNG.standard_normal((24, 128)), 64)
    again = pack(codes).codes()
    np.testing.assert_array_equal(again.values, codes.values)
    np.testing.assert_array_equal(again.scales, codes.scales)


def test_gptq_with_act_order_is_refused_by_name():
    packed = gptq(Codes(VALUES, SCALES, 4))
    with pytest.raises(UnsupportedFormat, match="act-order"):
        Gptq(packed.qweight, packed.scales, None, RNG.permutation(K) // GROUP)


@pytest.mark.parametrize("whole", [False, True])
def test_asymmetric_gptq_takes_zero_points_less_one_or_whole(whole):
    packed = gptq(Codes(VALUES, SCALES, 4))
    zeros = RNG.integers(1, 16, (K // GROUP, N))
    qzeros = words(K // GROUP, N // 8, lambda i, j, s: int(zeros[i, 8 * j + s]) - (not whole))
    matrix = Gptq(packed.qweight, packed.scales, qzeros, whole_zeros=whole)
    expected = (VALUES + 8 - zeros.T.repeat(GROUP, 1)) * SCALES.repeat(GROUP, 1)
    np.testing.assert_allclose(matrix.decode(), expected, rtol=1e-6)


def test_gptq_of_8_bits_is_refused_by_name():
    words_, zeros = np.zeros((K // 4, N), np.int32), np.zeros((2, N // 4), np.int32)
    for told in ({"g_idx": np.arange(K) // (K // 2)}, {"qzeros": zeros}):
        with pytest.raises(UnsupportedFormat, match="GPTQ of 8 bits"):
            Gptq(words_, np.ones((2, N), np.float32), **told)


def test_gptq_zero_points_of_another_shape_are_refused():
    packed = gptq(Codes(VALUES, SCALES, 4))
    with pytest.raises(FormatError, match=r"qzeros have shape \(1, 2\), not \(2, 2\)"):
        Gptq(packed.qweight, packed.scales, np.zeros((1, 2), np.int32))


def test_nan_scales_and_wrong_shapes_are_refused():
    packed = rawint4(Codes(VALUES, SCALES, 4))
    with pytest.raises(FormatError, match="1 of 32 scales are NaN"):
        RawInt4(packed.weight, np.where(np.arange(32).reshape(16, 2) == 5, np.nan, SCALES)).codes()
    with pytest.raises(FormatError, match=r"scales \(15, 2\) do not divide weights \(16, 64\)"):
        RawInt4(packed.weight, SCALES[1:]).codes()
    with pytest.raises(FormatError, match="weight_packed is int64, not int32 or uint8"):
        RawInt4(packed.weight.astype(np.int64), SCALES)
