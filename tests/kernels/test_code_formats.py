"""Formats whose codes come from checkpoints: every ISA, odd shapes, exact codes, the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe import PackFileError, packfile
from kt_moe import reference as twin
from kt_moe._native import core
from kt_moe.stored import Stored

from .helpers import dequantised, error, random_case, random_matrices, reference

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
GRIDS = {
    "int4": np.arange(-8, 8),
    "q4_1": np.arange(16),
    "mxfp4": E2M1,
    "nvfp4": E2M1,
    "iq4_nl": IQ4,
    "q6_0": np.arange(-32, 32),
    "q6_1": np.arange(64),
}
FORMATS = ("q8_0", "q4_1", "mxfp4", "nvfp4", "iq4_nl", "q6_0", "q6_1")
ALL = ("int8", "int4", *FORMATS)
BYTES = ("int8", "q8_0")
OUTPUT_BOUND = {
    "q8_0": 0.03,
    "q4_1": 0.145,
    "mxfp4": 0.22,
    "nvfp4": 0.18,
    "iq4_nl": 0.135,
    "q6_0": 0.045,
    "q6_1": 0.045,
}

# tokens, hidden, intermediate, experts, top-k
SHAPES = [(1, 200, 72, 5, 3), (2, 64, 192, 3, 2), (9, 700, 130, 4, 2), (70, 129, 100, 4, 3)]


def test_every_format_is_tested_here() -> None:
    assert {"bf16", *ALL} == set(core().formats())
    assert set(FORMATS) == set(OUTPUT_BOUND) and set(ALL) - set(BYTES) == set(GRIDS)


def own_bound(isa: str) -> float:
    return 3e-2 if isa.startswith("amx") else 2e-2


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference_on_its_own_weights(
    isa: str, fmt: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, e, h, i), format=fmt, top_k=k)
    case = random_case(rng, tokens, h, e, k)
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound(isa)


@pytest.mark.parametrize("fmt", ALL)
@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_the_largest_sums_do_not_overflow(
    isa: str, fmt: str, tokens: int, rng: np.random.Generator
) -> None:
    """Activations and weights all of one size, their signs alike in some rows: every 8 k the same,
    so that sums in 16 bits, which take every fourth pair, become as large as they can."""
    signs = np.float32(rng.choice([-1, 1], (16, 8)))
    signs[0], signs[1] = 1, np.tile([1, 1, -1, -1], 2)
    wide = np.tile(signs, (4, 16))
    down = rng.standard_normal((128, 64)).astype(np.float32)
    experts = kt_moe.Experts(1, 128, 64, format=fmt, top_k=1)
    experts.set_expert(0, wide / 8, wide / 8, down)
    case = replace(random_case(rng, tokens, 128, 1, 1), x=wide[:tokens])
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound(isa)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradients_match_reference(
    isa: str, fmt: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, e, h, i), format=fmt, top_k=k)
    case = random_case(rng, tokens, h, e, k)
    dout = rng.standard_normal(case.x.shape).astype(np.float32)
    layer = twin.layer(*(m.astype(np.float64) for m in dequantised(experts)))
    wanted = twin.backward(layer, case.x, case.ids, case.weights, dout)
    dx, dweights = experts.backward(case.x, case.ids, case.weights, dout)
    assert error(dx, wanted.x) < 1e-2
    assert error(dweights, wanted.weights) < 2e-2


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("tokens", [2, 40])
def test_error_to_unquantised_gaussian_weights(
    isa: str, fmt: str, tokens: int, rng: np.random.Generator
) -> None:
    matrices = random_matrices(rng, 3, 768, 256)
    case = random_case(rng, tokens, 768, 3, 2)
    experts = kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=2)
    got = experts.forward(case.x, case.ids, case.weights)
    assert error(got, reference(matrices, case)) < OUTPUT_BOUND[fmt]


@pytest.mark.parametrize(
    ("fmt", "group"),
    [
        ("q8_0", 64),
        ("q8_0", 128),
        ("q4_1", 16),
        ("q4_1", 128),
        ("iq4_nl", 128),
        ("int4", 16),
        ("q6_0", 16),
        ("q6_0", 128),
        ("q6_1", 16),
        ("q6_1", 64),
    ],
)
def test_other_groups(isa: str, fmt: str, group: int, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 3, 200, 136)
    experts = kt_moe.Experts.from_weights(*matrices, format=fmt, group=group, top_k=2)
    layer = twin.layer(*(m.astype(np.float64) for m in dequantised(experts)))
    for tokens in (1, 5, 40):
        case = random_case(rng, tokens, 200, 3, 2)
        wanted = twin.backward(layer, case.x, case.ids, case.weights, case.x)
        got = experts.forward(case.x, case.ids, case.weights)
        assert error(got, reference(dequantised(experts), case)) < own_bound(isa)
        dx, _ = experts.backward(case.x, case.ids, case.weights, case.x)
        assert error(dx, wanted.x) < 1e-2


def one_scale_for_a_row(weights: np.ndarray) -> np.ndarray:
    """As kt-kernel's AMXINT4 rounds: the largest weight of a row at 7."""
    scale = np.abs(weights).max(axis=-1, keepdims=True) / 7
    return np.rint(weights / scale) * scale


def test_int4_on_heavy_tails_is_far_better_than_one_scale_for_a_row(
    isa: str, rng: np.random.Generator
) -> None:
    shapes = ((1, 768, 2048), (1, 768, 2048), (1, 2048, 768))
    gate, up, down = (
        (rng.standard_t(5, s) / np.sqrt(s[2] * 5 / 3)).astype(np.float32) for s in shapes
    )
    case = random_case(rng, 8, 2048, 1, 1)
    wanted = reference((gate, up, down), case)
    by_row = reference(tuple(one_scale_for_a_row(m) for m in (gate, up, down)), case)
    experts = kt_moe.Experts.from_weights(gate, up, down, format="int4", top_k=1)
    got = experts.forward(case.x, case.ids, case.weights)
    assert error(got, wanted) < 0.4 * error(by_row, wanted)


def random_codes(rng: np.random.Generator, fmt: str, n: int, k: int) -> tuple[Stored, np.ndarray]:
    """Codes over the whole grid, and the weights that they stand for."""
    group = 16 if fmt == "nvfp4" else 32
    shape = (n, -(-k // group))
    spread = lambda a: a.astype(np.float64).repeat(group, axis=1)[:, :k]  # noqa: E731
    if fmt not in BYTES:
        codes = rng.integers(0, len(GRIDS[fmt]), (n, k)).astype(np.uint8)
        values = GRIDS[fmt][codes].astype(np.float64)
    else:
        values = rng.integers(-127, 128, (n, k))
        codes = values.astype(np.int8).view(np.uint8)
    half = (rng.uniform(0.001, 0.01, shape) * rng.choice([-1, 1], shape)).astype(np.float16)
    rows = rng.uniform(0.5, 2, n).astype(np.float32)
    if fmt == "int8":
        stored = Stored(fmt, group, codes, np.empty((n, 0), np.uint8), None, rows)
        return stored, values * rows[:, None]
    if fmt == "mxfp4":
        exponents = rng.integers(1, 250, shape).astype(np.uint8)
        return Stored(fmt, group, codes, exponents), values * spread(2.0 ** (exponents - 127.0))
    if fmt == "nvfp4":
        e4m3 = rng.integers(0, 127, shape).astype(np.uint8)
        scales = spread((e4m3.astype(np.uint16) << 7).view(np.float16))
        return Stored(fmt, group, codes, e4m3, None, rows), values * scales * rows[:, None]
    minima = rng.standard_normal(shape).astype(np.float16) if fmt.endswith("_1") else None
    weights = values * spread(half) + (0 if minima is None else spread(minima))
    bits = None if minima is None else minima.view(np.uint16)
    return Stored(fmt, group, codes, half.view(np.uint16), bits), weights


@pytest.mark.parametrize("fmt", ALL)
@pytest.mark.parametrize("size", [(64, 64), (129, 65), (200, 136)], ids=str)
def test_codes_are_kept(fmt: str, size: tuple[int, int], rng: np.random.Generator) -> None:
    h, i = size
    experts = kt_moe.Experts(2, h, i, format=fmt, top_k=1)
    sources = [random_codes(rng, fmt, *shape) for shape in ((i, h), (i, h), (h, i))]
    experts.set_expert(1, *(stored for stored, _ in sources))
    for got, (_, wanted) in zip(experts.dequantised(1), sources, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7 if fmt.endswith("_1") else 0)
    if not fmt.endswith("_1"):  # whose code 0 without scale and minimum is 0 too
        assert not any(m.any() for m in experts.dequantised(0))


@pytest.mark.parametrize("fmt", ALL)
def test_placed_codes_compute_as_their_weights(
    isa: str, fmt: str, rng: np.random.Generator
) -> None:
    """At sizes with edges, whose filling must not count."""
    h, i = 129, 65
    experts = kt_moe.Experts(1, h, i, format=fmt, top_k=1)
    experts.set_expert(0, *(mild(rng, fmt, n, k) for n, k in ((i, h), (i, h), (h, i))))
    layer = twin.layer(*(m.astype(np.float64) for m in dequantised(experts)))
    for tokens in (1, 9):
        case = random_case(rng, tokens, h, 1, 1)
        wanted = twin.backward(layer, case.x, case.ids, case.weights, case.x)
        got = experts.forward(case.x, case.ids, case.weights)
        assert error(got, twin.forward(layer, case.x, case.ids, case.weights)) < 4e-2
        dx, _ = experts.backward(case.x, case.ids, case.weights, case.x)
        assert error(dx, wanted.x) < 1e-2


def mild(rng: np.random.Generator, fmt: str, n: int, k: int) -> Stored:
    """Random codes with scales that keep the activation out of its saturation."""
    stored, _ = random_codes(rng, fmt, n, k)
    if fmt == "mxfp4":
        return replace(stored, scales=np.full_like(stored.scales, 120))
    if fmt == "nvfp4":
        return replace(stored, scales=np.full_like(stored.scales, 48))
    return replace(stored, rows=None if stored.rows is None else stored.rows / 500)


def test_codes_of_another_format_or_shape_are_refused(rng: np.random.Generator) -> None:
    experts = kt_moe.Experts(1, 64, 64, format="int4", top_k=1)
    good, _ = random_codes(rng, "int4", 64, 64)
    other, _ = random_codes(rng, "iq4_nl", 64, 64)
    with pytest.raises(ValueError, match="iq4_nl in groups of 32 came for int4"):
        experts.set_expert(0, good, other, good)
    with pytest.raises(ValueError, match="codes has shape"):
        experts.set_expert(0, good, good, random_codes(rng, "int4", 64, 96)[0])
    wide = Stored("int4", 32, good.codes + np.uint8(1), good.scales)
    with pytest.raises(ValueError, match="wider than 4 bits"):
        experts.set_expert(0, wide, good, good)
    bytes_, _ = random_codes(rng, "q8_0", 64, 64)
    bytes_.codes[5, 7] = 128
    with pytest.raises(ValueError, match="a code is -128"):
        kt_moe.Experts(1, 64, 64, format="q8_0", top_k=1).set_expert(0, bytes_, bytes_, bytes_)
    low = Stored("int4", 32, good.codes, good.scales, good.scales)
    with pytest.raises(ValueError, match="minima have no place"):
        experts.set_expert(0, low, good, good)


@pytest.mark.parametrize(("fmt", "group"), [("nvfp4", 32), ("mxfp4", 64), ("q8_0", 16)])
def test_a_group_that_a_format_has_not_is_refused(fmt: str, group: int) -> None:
    with pytest.raises(ValueError, match=f"group must be .* for {fmt}"):
        kt_moe.Experts(1, 64, 64, format=fmt, group=group, top_k=1)


@pytest.mark.parametrize("fmt", FORMATS)
def test_weights_that_are_not_finite_are_refused(fmt: str, rng: np.random.Generator) -> None:
    gate, up, down = (m[0] for m in random_matrices(rng, 1, 64, 64))
    gate[3, 5] = np.nan
    with pytest.raises(ValueError, match="gate weights of expert 0 hold NaN"):
        kt_moe.Experts(1, 64, 64, format=fmt, top_k=1).set_expert(0, gate, up, down)


@pytest.mark.parametrize("fmt", FORMATS)
def test_loaded_experts_answer_alike(fmt: str, tmp_path: Path, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 3, 72, 100)
    experts = kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=2)
    experts.save(tmp_path / "layer.kt")
    loaded = kt_moe.Experts.load(tmp_path / "layer.kt", verify=True)
    assert (loaded.format, loaded.group) == (fmt, 16 if fmt == "nvfp4" else 32)
    case = random_case(rng, 9, 72, 3, 2)
    np.testing.assert_array_equal(
        loaded.forward(case.x, case.ids, case.weights),
        experts.forward(case.x, case.ids, case.weights),
    )


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("matrix", ["up", "down"])
def test_a_scale_that_is_not_finite_is_refused(
    fmt: str, matrix: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, 1, 72, 100), format=fmt, top_k=1)
    raw = bytearray(experts._packed.data().tobytes())
    at = experts._packed.layout()[f"{matrix}_scale_at"]
    raw[at : at + 4] = b"\xff" * 4
    packfile.write(tmp_path / "layer.kt", experts._meta, np.frombuffer(raw, np.uint8))
    with pytest.raises(PackFileError, match="not finite"):
        kt_moe.Experts.load(tmp_path / "layer.kt", verify=True)


def test_an_unknown_format_in_a_file_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, 1, 64, 64), format="int8", top_k=1)
    path = tmp_path / "layer.kt"
    experts.save(path)
    path.write_bytes(path.read_bytes().replace(b'"format": "int8"', b'"format": "int9"', 1))
    with pytest.raises(ValueError, match="unknown weight format int9"):
        kt_moe.Experts.load(path)


def golden(fmt: str, source: Stored) -> tuple[bytes, bytes]:
    """A panel of 16 rows and 64 columns as version 1 of the file has it, and its scales."""
    codes = source.codes.T.copy()  # [k, row]
    if fmt in GRIDS:
        steps = codes.reshape(8, 2, 4, 16)
        lines = steps[:, 0] & 15 | steps[:, 1] << 4
        if fmt.startswith("q6"):
            upper = codes.reshape(4, 4, 4, 16) >> 4  # of k, k + 4, k + 8, k + 12 in one byte
            pairs = sum(upper[:, i] << np.uint8(2 * i) for i in range(4))
            lines = np.concatenate([lines.reshape(4, 2, 4, 16), pairs[:, None]], axis=1)
        codes = lines.reshape(-1, 16)
    panel = codes.reshape(-1, 4, 16).transpose(0, 2, 1).tobytes()
    head = b"" if source.rows is None else source.rows.tobytes()
    tables = [source.scales] + ([] if source.minima is None else [source.minima])
    groups = [t[:, g].tobytes() for g in range(source.scales.shape[1]) for t in tables]
    return panel, head + b"".join(groups)


@pytest.mark.parametrize("fmt", ALL)
def test_golden_bytes(fmt: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """The layout of version 1 never changes."""
    gate, up, down = (random_codes(rng, fmt, n, k)[0] for n, k in ((16, 64), (16, 64), (64, 16)))
    experts = kt_moe.Experts(1, 64, 16, format=fmt, top_k=1)
    experts.set_expert(0, gate, up, down)
    experts.save(tmp_path / "golden.kt")
    data = (tmp_path / "golden.kt").read_bytes()[4096:]
    (first, first_scales), (second, second_scales) = golden(fmt, gate), golden(fmt, up)
    assert data.startswith(first + second)
    at = experts._packed.layout()["up_scale_at"]
    assert data[at:].startswith(first_scales + second_scales)
