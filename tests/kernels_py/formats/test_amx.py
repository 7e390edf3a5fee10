"""AMXINT8 and AMXINT4 tiles that kt-kernel 0.7.2 wrote for weights of a known pattern.

The pattern has a scale of 2^-7 and a first column at the top of the range, so that every code is
known; rows of 3712 columns reach over the 3584 of a column block.
"""

from pathlib import Path

import numpy as np
import pytest
from kt_moe.formats import AmxTiles, FormatError

DATA = Path(__file__).parent.parent / "data"
SHAPES = {"gate": (128, 3712), "down": (3712, 128)}


def pattern(shape, bits):
    row, column = np.indices(shape)
    top = 127 if bits == 8 else 7
    values = (row * 5 + column * 3 + column // 64 * 2 + column // 3584) % (2 * top + 1) - top
    values[:, 0] = top
    return values


def tiles(name, bits):
    with np.load(DATA / f"amxint{bits}.npz") as file:
        return AmxTiles(file[f"{name}_quant"], file[f"{name}_scale"], SHAPES[name], bits)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_files_of_kt_kernel_give_the_weights_back(name, bits):
    expected = pattern(SHAPES[name], bits)
    matrix = tiles(name, bits)
    np.testing.assert_array_equal(matrix.codes().values, expected)
    np.testing.assert_allclose(matrix.decode(), expected / 128, rtol=1e-5)


def test_bytes_cut_short_are_counted():
    matrix = tiles("gate", 8)
    with pytest.raises(FormatError, match=r"AMXINT8 weights have 475135 bytes, .* takes 475136"):
        AmxTiles(matrix.data[:-1], matrix.scale, matrix.shape, 8)


def test_a_shape_that_is_no_multiple_of_the_tile_is_refused():
    with pytest.raises(FormatError, match=r"\(32, 64\) is no multiple of the AMXINT4 tile"):
        AmxTiles(np.zeros(1024, np.uint8), np.ones(32, np.float32), (32, 64), 4)


def test_a_nan_scale_is_refused():
    matrix = tiles("gate", 4)
    scale = matrix.scale.copy()
    scale[3] = np.nan
    with pytest.raises(FormatError, match="1 of 128 scales are NaN or infinite"):
        AmxTiles(matrix.data, scale, matrix.shape, 4).codes()
