"""Tables of the small floats against torch."""

import numpy as np
import torch

from kt_cli.weights.floats import e4m3_to_float32, e5m2_to_float32, e8m0_to_float32

CODES = np.arange(256, dtype=np.uint8)


def reference(dtype):
    return torch.from_numpy(CODES).view(dtype).float().numpy()


def test_e4m3_equals_torch():
    np.testing.assert_array_equal(e4m3_to_float32(CODES), reference(torch.float8_e4m3fn))


def test_e5m2_equals_torch():
    np.testing.assert_array_equal(e5m2_to_float32(CODES), reference(torch.float8_e5m2))


def test_e8m0_equals_torch():
    np.testing.assert_array_equal(e8m0_to_float32(CODES), reference(torch.float8_e8m0fnu))
