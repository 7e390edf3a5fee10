"""INT8 and INT4 with scales: error, exactness on a grid, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kt_moe.formats import FormatError, int4, int8, relative_error
from kt_moe.formats.codes import Codes

RNG = np.random.default_rng(5)
GAUSS = RNG.standard_normal((64, 1024)).astype(np.float32)


def test_int8_rows_are_within_half_a_step():
    codes = int8(GAUSS)
    assert codes.scales.shape == (64, 1)
    assert (np.abs(codes.decode() - GAUSS) <= codes.scales / 2 * 1.0001).all()


@pytest.mark.parametrize(("group", "limit"), [(32, 0.083), (64, 0.093), (128, 0.104)])
def test_searched_int4_scales_reach_the_known_error_of_gaussian_weights(group, limit):
    searched = relative_error(GAUSS, int4(GAUSS, group).decode())
    plain = relative_error(GAUSS, int4(GAUSS, group, search=False).decode())
    assert searched < limit < plain


def test_int4_on_heavy_tails_is_far_better_than_one_scale_for_a_row():
    heavy = RNG.standard_t(5, (64, 1024)).astype(np.float32)
    one_scale = int4(heavy, 1024, search=False)
    error = relative_error(heavy, int4(heavy).decode())
    assert error < 0.4 * relative_error(heavy, one_scale.decode())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 128]))
def test_weights_already_on_an_int4_grid_are_found_again(seed, group):
    rng = np.random.default_rng(seed)
    values = rng.integers(-8, 8, (4, 256)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, (4, 256 // group)).astype(np.float16).astype(np.float32)
    weights = Codes(values, scales, 4).decode()
    assert relative_error(weights, int4(weights, group).decode()) < 1e-3


def test_int4_scales_are_fp16_values_and_codes_fit_four_bits():
    codes = int4(GAUSS)
    np.testing.assert_array_equal(codes.scales, codes.scales.astype(np.float16))
    assert codes.values.min() >= -8 and codes.values.max() <= 7


@pytest.mark.parametrize("quantize", [int8, int4])
def test_zeros_stay_zeros(quantize):
    assert not quantize(np.zeros((2, 64), np.float32)).decode().any()


@pytest.mark.parametrize("quantize", [int8, int4])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_counted(quantize, bad):
    weights = np.ones((2, 64), np.float32)
    weights[1, 3] = bad
    with pytest.raises(FormatError, match="1 of 128 weights are NaN or infinite"):
        quantize(weights)


def test_a_group_that_does_not_divide_the_row_is_refused():
    with pytest.raises(FormatError, match="rows of 48 weights are no multiple of the group 32"):
        int4(np.ones((2, 48)))
