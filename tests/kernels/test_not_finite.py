"""What is not finite in a token's row stays so in its result, and touches no other token."""

from __future__ import annotations

from itertools import product

import kt_moe
import numpy as np
import pytest
from kt_moe._native import core

from .helpers import Case, from_bf16, random_case, random_low_rank, random_matrices, to_bf16

VALUES = (np.nan, np.inf, -np.inf)
HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 200, 136, 3, 2
TOKENS = (1, 2, 7, 40)  # one row, two, many rows of vectors, tiles
CASTS = {
    "float32": (lambda x: x, lambda x: x),
    "float16": (lambda x: x.astype(np.float16), lambda x: x),
    "bfloat16": (to_bf16, from_bf16),
}


def spoil(x: np.ndarray, row: int, column: int, value: float) -> np.ndarray:
    spoilt = x.copy()
    spoilt[row, column] = value
    return spoilt


def check(got: np.ndarray, clean: np.ndarray, row: int, what: object) -> None:
    """Nothing finite in the row, and every other row as it is without the spoilt one."""
    assert not np.isfinite(got[row]).any(), what
    rest = np.arange(len(got)) != row
    assert np.array_equal(got[rest], clean[rest]), what


@pytest.fixture(params=core().formats() if kt_moe.available else [])
def experts(request: pytest.FixtureRequest, rng: np.random.Generator) -> kt_moe.Experts:
    matrices = random_matrices(rng, EXPERTS, HIDDEN, INTERMEDIATE)
    return kt_moe.Experts.from_weights(*matrices, format=request.param, top_k=TOP_K)


@pytest.fixture
def cases(rng: np.random.Generator) -> list[Case]:
    return [random_case(rng, tokens, HIDDEN, EXPERTS, TOP_K) for tokens in TOKENS]


def test_forward(isa: str, experts: kt_moe.Experts, cases: list[Case]) -> None:
    for case, dtype in product(cases, CASTS):
        there, back = CASTS[dtype]
        clean = back(experts.forward(there(case.x), case.ids, case.weights))
        row = len(case.x) // 2
        for value, column in product(VALUES, (0, 37, HIDDEN - 1)):
            x = there(spoil(case.x, row, column, value))
            got = back(experts.forward(x, case.ids, case.weights))
            check(got, clean, row, (len(x), dtype, value, column))


def test_a_row_of_nothing_else_and_gelu(isa: str, rng: np.random.Generator) -> None:
    for fmt, tokens, value in product(core().formats(), TOKENS, VALUES):
        matrices = random_matrices(rng, 1, 64, 64)
        layer = kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=1, act="gelu")
        case = random_case(rng, tokens, 64, 1, 1)
        clean = layer.forward(case.x, case.ids, case.weights)
        case.x[0] = value
        check(layer.forward(case.x, case.ids, case.weights), clean, 0, (fmt, tokens, value))


def test_routing_weights(isa: str, experts: kt_moe.Experts, cases: list[Case]) -> None:
    for case, value in product(cases, VALUES):
        clean = experts.forward(case.x, case.ids, case.weights)
        got = experts.forward(case.x, case.ids, spoil(case.weights, 0, 1, value))
        check(got, clean, 0, (len(case.x), value))


def test_gradients(isa: str, experts: kt_moe.Experts, cases: list[Case]) -> None:
    for case, value, which in product(cases, VALUES, ("x", "dout")):
        row = len(case.x) - 1
        clean = experts.backward(case.x, case.ids, case.weights, case.x)
        x, dout = case.x, spoil(case.x, row, 5, value)
        if which == "x":
            x, dout = dout, x
        got = experts.backward(x, case.ids, case.weights, dout)
        for grad, expected in zip(got, clean, strict=True):
            check(grad, expected, row, (len(case.x), value, which))


def test_low_rank(
    isa: str, experts: kt_moe.Experts, cases: list[Case], rng: np.random.Generator
) -> None:
    low_rank = random_low_rank(rng, EXPERTS, HIDDEN, INTERMEDIATE, 3)
    for case, value in product(cases, VALUES):
        routing = case.ids, case.weights
        x = spoil(case.x, 0, 64, value)
        clean = experts.forward_low_rank(case.x, *routing, low_rank, 0.5)
        got = experts.forward_low_rank(x, *routing, low_rank, 0.5)
        check(got, clean, 0, (len(x), value))
        clean_dx, _, _ = experts.backward_low_rank(case.x, *routing, case.x, low_rank, 0.5)
        dx, dweights, _ = experts.backward_low_rank(x, *routing, case.x, low_rank, 0.5)
        check(dx, clean_dx, 0, (len(x), value))
        assert not np.isfinite(dweights[0]).any()


def test_in_the_background(isa: str, experts: kt_moe.Experts, cases: list[Case]) -> None:
    case = cases[-1]
    clean = experts.forward(case.x, case.ids, case.weights)
    x = spoil(case.x, 3, 5, np.nan)
    got = experts.submit(x, case.ids, case.weights)
    experts.sync()
    check(got, clean, 3, "submit")


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-37, 1e-30])
def test_values_near_zero_count_as_what_they_are(
    isa: str, scale: float, rng: np.random.Generator
) -> None:
    """The quotient by a group's widest value would be infinite."""
    for fmt in core().formats():
        layer = kt_moe.Experts.from_weights(
            *random_matrices(rng, 1, 64, 64), format=fmt, top_k=1, act="silu"
        )
        case = random_case(rng, 5, 64, 1, 1)
        got = layer.forward(case.x * np.float32(scale), case.ids, case.weights)
        assert np.abs(got).max() <= scale, fmt
