"""Small floats against torch's dtypes, code by code and over random values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kt_moe.formats import floats

ALL_BYTES = np.arange(256, dtype=np.uint8)
TORCH = {
    "e4m3": (floats.from_e4m3, torch.float8_e4m3fn),
    "e5m2": (floats.from_e5m2, torch.float8_e5m2),
    "e8m0": (floats.from_e8m0, torch.float8_e8m0fnu),
}


@pytest.mark.parametrize("name", TORCH)
def test_every_code_of_a_byte_format_decodes_as_in_torch(name):
    decode, dtype = TORCH[name]
    theirs = torch.from_numpy(ALL_BYTES).view(dtype).float().numpy()
    np.testing.assert_array_equal(decode(ALL_BYTES), theirs)


def test_every_bf16_pattern_decodes_as_in_torch():
    bits = np.arange(2**16, dtype=np.uint16)
    theirs = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(floats.from_bf16(bits), theirs)


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1))
def test_bf16_rounds_as_torch(values):
    x = np.array(values, np.float32)
    theirs = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    ours = floats.to_bf16(x)
    nan = np.isnan(x)
    np.testing.assert_array_equal(ours[~nan], theirs[~nan])
    assert np.isnan(floats.from_bf16(ours[nan])).all()


@given(st.lists(st.floats(-448, 448, width=32), min_size=1))
def test_e4m3_rounds_as_torch(values):
    x = np.array(values, np.float32)
    theirs = torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(floats.to_e4m3(x), theirs)


def test_e4m3_keeps_nan_and_saturates():
    codes = floats.to_e4m3(np.array([np.nan, 1e9, -1e9], np.float32))
    np.testing.assert_array_equal(floats.from_e4m3(codes), [np.nan, 448, -448])


@given(st.lists(st.floats(-6, 6, width=32), min_size=1))
def test_e2m1_takes_the_nearest_value_and_ties_to_even(values):
    x = np.array(values, np.float32)
    codes = floats.to_e2m1(x)
    distance = np.abs(x[:, None] - floats.E2M1)
    chosen = np.take_along_axis(distance, codes[:, None].astype(int), 1)[:, 0]
    np.testing.assert_array_equal(chosen, distance.min(axis=1))
    for value, code in ((0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5, 6)):
        assert floats.to_e2m1(np.array([value, -value])).tolist() == [code, code | 8]
