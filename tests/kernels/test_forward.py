"""Every usable ISA x format x odd shape against a float64 reference."""

from __future__ import annotations

import kt_moe
import numpy as np
import pytest

from .helpers import (
    Case,
    Matrices,
    dequantised,
    error,
    from_bf16,
    random_case,
    random_matrices,
    reference,
    to_bf16,
)

BOUND = {"bf16": 6e-3, "int8": 3e-2, "int4": 0.145}
OWN_BOUND = {"bf16": 6e-3, "int8": 2.5e-2, "int4": 2e-2}
FORMATS = list(BOUND)
TILE_OWN_BOUND = 3e-2  # tiles take int4 as row-scaled int8, with one activation scale per row

# tokens, hidden, intermediate, experts, top-k
SHAPES = [
    (1, 64, 64, 4, 1),
    (1, 200, 72, 5, 3),
    (2, 64, 192, 3, 2),
    (1, 600, 64, 4, 2),
    (2, 576, 80, 3, 2),
    (3, 129, 65, 8, 8),
    (9, 256, 130, 4, 2),
    (17, 80, 96, 2, 1),
    (33, 96, 64, 3, 2),
    (70, 192, 100, 4, 3),
    (130, 72, 64, 2, 2),
]


def make(matrices: Matrices, fmt: str, k: int, **settings: object) -> kt_moe.Experts:
    return kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=k, **settings)


def own_bound(fmt: str, isa: str) -> float:
    return TILE_OWN_BOUND if isa.startswith("amx") and fmt != "bf16" else OWN_BOUND[fmt]


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference_on_its_own_weights(
    isa: str, fmt: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts = make(random_matrices(rng, e, h, i), fmt, k)
    case = random_case(rng, tokens, h, e, k)
    wanted = reference(dequantised(experts), case)
    got = experts.forward(case.x, case.ids, case.weights)
    assert error(got, wanted) < own_bound(fmt, isa)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("tokens", [2, 96])
def test_error_to_unquantised_gaussian_weights(
    isa: str, fmt: str, tokens: int, rng: np.random.Generator
) -> None:
    matrices = random_matrices(rng, 4, 768, 512)
    case = random_case(rng, tokens, 768, 4, 2)
    got = make(matrices, fmt, 2).forward(case.x, case.ids, case.weights)
    assert error(got, reference(matrices, case)) < BOUND[fmt]


@pytest.mark.parametrize("group", [32, 64, 128])
def test_int4_groups(isa: str, group: int, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 3, 200, 136), "int4", 2, group=group)
    for tokens in (1, 40):
        case = random_case(rng, tokens, 200, 3, 2)
        wanted = reference(dequantised(experts), case)
        got = experts.forward(case.x, case.ids, case.weights)
        assert error(got, wanted) < own_bound("int4", isa)


@pytest.mark.parametrize("fmt", FORMATS)
def test_all_tokens_on_one_expert(isa: str, fmt: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 6, 128, 64), fmt, 1)
    case = random_case(rng, 50, 128, 6, 1)
    case = Case(case.x, np.full_like(case.ids, 4), case.weights)
    wanted = reference(dequantised(experts), case)
    got = experts.forward(case.x, case.ids, case.weights)
    assert error(got, wanted) < own_bound(fmt, isa)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("cut", [(2, 4, 1, True), (4, 12, 3, False), (256, 8, 16, False)], ids=str)
def test_any_cut_of_a_product_gives_the_same(
    isa: str, fmt: str, cut: tuple[int, int, int, bool], rng: np.random.Generator
) -> None:
    experts = make(random_matrices(rng, 2, 600, 330), fmt, 1, group=128)
    case = random_case(rng, 600, 600, 2, 1)
    wanted = reference(dequantised(experts), case)
    kt_moe.limits.pin_cut(kt_moe.limits.Cut(*cut))
    try:
        assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound(fmt, isa)
    finally:
        kt_moe.limits.pin_cut(None)


def test_trying_cuts_does_not_change_the_result(isa: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 3, 600, 330), "int4", 2)
    case = random_case(rng, 90, 600, 3, 2)
    first = experts.forward(case.x, case.ids, case.weights)
    for _ in range(20):
        np.testing.assert_array_equal(experts.forward(case.x, case.ids, case.weights), first)


@pytest.mark.parametrize("tokens", [1, 5])
def test_an_expert_named_twice_counts_twice(
    isa: str, tokens: int, rng: np.random.Generator
) -> None:
    experts = make(random_matrices(rng, 3, 64, 64), "int8", 2)
    case = random_case(rng, tokens, 64, 3, 2)
    case = Case(case.x, np.ones_like(case.ids), case.weights)
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound("int8", isa)


def test_masked_experts_and_minus_one_are_skipped(isa: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 5, 64, 64), "bf16", 3)
    case = random_case(rng, 12, 64, 5, 3)
    case.ids[::3, 1] = -1
    mask = np.array([False, True, False, True, False])
    wanted = reference(dequantised(experts), case, mask)
    got = experts.forward(case.x, case.ids, case.weights, mask=mask)
    assert error(got, wanted) < BOUND["bf16"]


@pytest.mark.parametrize("tokens", [1, 4])
def test_no_expert_at_all_gives_zero(isa: str, tokens: int, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 2, 64, 64), "int4", 2)
    case = random_case(rng, tokens, 64, 2, 2)
    ids = np.full_like(case.ids, -1)
    assert not experts.forward(case.x, ids, case.weights).any()


def test_no_tokens(isa: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 2, 64, 64), "bf16", 2)
    case = random_case(rng, 0, 64, 2, 2)
    assert experts.forward(case.x, case.ids, case.weights).shape == (0, 64)


@pytest.mark.parametrize("dtype", ["float16", "bf16"])
def test_half_precision_in_gives_half_precision_out(
    isa: str, dtype: str, rng: np.random.Generator
) -> None:
    experts = make(random_matrices(rng, 3, 72, 80), "bf16", 2)
    case = random_case(rng, 6, 72, 3, 2)
    x = to_bf16(case.x) if dtype == "bf16" else case.x.astype(np.float16)
    exact = from_bf16(x) if dtype == "bf16" else x.astype(np.float32)
    wanted = reference(dequantised(experts), Case(exact, case.ids, case.weights))
    got = experts.forward(x, case.ids.astype(np.int64), case.weights)
    assert got.dtype == x.dtype
    assert error(from_bf16(got) if dtype == "bf16" else got, wanted) < 6e-3


def test_gelu(isa: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 3, 64, 64), "bf16", 2, act="gelu")
    case = random_case(rng, 6, 64, 3, 2)
    wanted = reference(dequantised(experts), case, act="gelu")
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < BOUND["bf16"]


def test_many_experts(isa: str, rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 512, 64, 64), "int8", 10)
    case = random_case(rng, 3, 64, 512, 10)
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound("int8", isa)


def test_more_tokens_than_one_chunk(rng: np.random.Generator) -> None:
    experts = make(random_matrices(rng, 2, 64, 64), "int8", 1)
    case = random_case(rng, 5000, 64, 2, 1)
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < 3e-2


@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_integer_formats_agree_between_vector_isas(fmt: str, rng: np.random.Generator) -> None:
    """Up to the order of sums; where these are of 16 bits, the scales of activations are wider."""
    experts = make(random_matrices(rng, 3, 128, 64), fmt, 2)
    case = random_case(rng, 11, 128, 3, 2)
    narrow: list[np.ndarray] = []
    wide: list[np.ndarray] = []
    for name in kt_moe.cpu_info()["variants"]:
        if not name.startswith("amx"):
            kt_moe.use_isa(name)
            results = narrow if name.startswith(("avx2", "avx512_base")) else wide
            results.append(experts.forward(case.x, case.ids, case.weights))
    kt_moe.use_isa("")
    for first, *others in filter(None, (narrow, wide)):
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-4, atol=1e-5)
        assert error(first, narrow[0]) < OWN_BOUND[fmt]


def test_small_calls_of_every_kind(isa: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        h, i, e = (int(rng.integers(1, n)) for n in (150, 150, 9))
        k = int(rng.integers(1, e + 1))
        fmt = str(rng.choice(FORMATS))
        experts = make(random_matrices(rng, e, h, i), fmt, k)
        weights = dequantised(experts)
        for tokens in rng.integers(0, 40, 4):
            case = random_case(rng, int(tokens), h, e, k)
            case.ids[rng.random(case.ids.shape) < 0.2] = -1
            wanted = reference(weights, case)
            got = experts.forward(case.x, case.ids, case.weights)
            assert (
                error(got, wanted) < 6e-2
            )  # a handful of values: quantisation noise does not average
