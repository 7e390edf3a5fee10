"""What packing makes of plain weights: the same on every ISA, from any dtype, at any edge."""

from __future__ import annotations

import kt_moe
import numpy as np
import pytest

from .helpers import dequantised, from_bf16, random_matrices, to_bf16

FORMATS = ("bf16", "int8", "int4", "q8_0", "q4_1", "q6_0", "q6_1", "mxfp4", "nvfp4", "iq4_nl")
GROUPS = {"q4_1": (16, 128), "q8_0": (32, 128), "int4": (16, 32, 64, 128), "nvfp4": (16,)}


def packed(fmt: str, group: int | None = None, shape: tuple[int, int] = (200, 72)) -> np.ndarray:
    matrices = random_matrices(np.random.default_rng(3), 2, *shape)
    return kt_moe.Experts.from_weights(*matrices, format=fmt, group=group, top_k=1)._packed.data()


@pytest.mark.parametrize(("fmt", "group"), [(f, g) for f in FORMATS for g in GROUPS.get(f, (32,))])
def test_every_isa_packs_the_same_bytes(isa: str, fmt: str, group: int) -> None:
    here = packed(fmt, group).tobytes()
    kt_moe.use_isa("avx2")
    assert packed(fmt, group).tobytes() == here


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", [(64, 64), (128, 80), (129, 100), (15, 1)], ids=str)
def test_bf16_weights_pack_as_their_values_in_float32(
    isa: str, fmt: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    bits = [to_bf16(m) for m in random_matrices(rng, 2, *shape)]
    halves = kt_moe.Experts.from_weights(*bits, format=fmt, top_k=1, dtype="bf16")
    whole = kt_moe.Experts.from_weights(*map(from_bf16, bits), format=fmt, top_k=1)
    assert halves._packed.data().tobytes() == whole._packed.data().tobytes()


@pytest.mark.parametrize("shape", [(64, 64), (129, 100)], ids=str)
def test_fp16_and_fp32_weights_are_rounded_to_bf16(
    isa: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    for dtype in (np.float16, np.float32):
        matrices = [m.astype(dtype) for m in random_matrices(rng, 2, *shape)]
        got = dequantised(kt_moe.Experts.from_weights(*matrices, format="bf16", top_k=1))
        for m, g in zip(matrices, got, strict=True):
            np.testing.assert_array_equal(from_bf16(to_bf16(m)), g)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (71, 199), (40, 130)])
def test_no_place_hides_a_weight_that_is_not_finite(
    isa: str, fmt: str, bad: float, place: tuple[int, int], rng: np.random.Generator
) -> None:
    gate, up, down = random_matrices(rng, 1, 200, 72)
    up[0][place] = bad
    with pytest.raises(ValueError, match="up weights of expert 0 hold NaN or infinity"):
        kt_moe.Experts.from_weights(gate, up, down, format=fmt, top_k=1)


def least_error(w: np.ndarray, group: int) -> np.ndarray:
    """Squared error of each group with the best of 2 × 400 scales, each refined once."""
    rows = w.reshape(-1, group).astype(np.float64)
    widest, best = np.abs(rows).max(axis=1, keepdims=True), np.full(len(rows), np.inf)
    for place in np.linspace(5, 13, 400):
        for sign in (-1, 1):
            q = np.clip(np.rint(rows * sign * place / widest), -8, 7)
            scale = (rows * q).sum(1, keepdims=True) / (q * q).sum(1, keepdims=True)
            again = np.clip(np.rint(rows / scale), -8, 7)
            best = np.minimum(best, ((rows - again * scale) ** 2).sum(axis=1))
    return best


@pytest.mark.parametrize("group", [16, 32, 64, 128])
@pytest.mark.parametrize("tails", [3, 1000])
def test_int4_comes_near_the_least_squared_error(isa: str, group: int, tails: int) -> None:
    """For normal weights, and for heavy tails."""
    rng = np.random.default_rng(5)
    gate = rng.standard_t(tails, (1, 64, 256)).astype(np.float32)
    down = np.zeros((1, 256, 64), np.float32)
    made = kt_moe.Experts.from_weights(gate, gate, down, format="int4", group=group, top_k=1)
    off = ((made.dequantised(0)[0] - gate[0]) ** 2).reshape(-1, group).sum(axis=1)
    best = least_error(gate[0], group)
    assert (off <= 1.05 * best).mean() > 0.9
    assert off.sum() <= 1.01 * best.sum()


@pytest.mark.parametrize("group", [16, 128])
@pytest.mark.parametrize("sign", [-1, 1])
def test_int4_keeps_weights_that_are_codes_times_a_scale(isa: str, group: int, sign: int) -> None:
    """Golden bytes: row r, k of a panel in byte k // 8 * 64 + r * 4 + k % 4, its lower half for
    even k // 4; codes are more by 8."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (16, 128))
    codes[:, ::16] = -8
    gate = (codes * 0.25 * sign).astype(np.float32)[None]
    zeros = np.zeros((1, 16, 128), np.float32)
    down = zeros.transpose(0, 2, 1).copy()
    made = kt_moe.Experts.from_weights(gate, zeros, down, format="int4", group=group, top_k=1)
    panel = made._packed.data()[:1024].reshape(16, 16, 4)
    halves = np.stack([panel & 15, panel >> 4], axis=1).transpose(2, 0, 1, 3).reshape(16, 128)
    np.testing.assert_array_equal(halves.astype(int) - 8, codes)
    np.testing.assert_array_equal(made.dequantised(0)[0], gate[0])


def test_int4_of_tiny_and_of_no_weights(isa: str) -> None:
    for value in (0, 1e-38, 1e-9, 1e-5, 1e4, 1e38):
        gate = np.full((1, 16, 64), value, np.float32)
        down = gate.transpose(0, 2, 1).copy()
        made = kt_moe.Experts.from_weights(gate, -gate, down, format="int4", top_k=1)
        got, limit = made.dequantised(0)[0], 65504 * 8
        assert np.abs(got - min(value, limit)).max() <= max(value * 0.01, 2.0**-25 * 8)
