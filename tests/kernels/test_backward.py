"""Gradients of every usable ISA and format against `kt_moe.reference` in float64."""

from __future__ import annotations

import kt_moe
import numpy as np
import pytest
from kt_moe import reference as twin

from .helpers import (
    Case,
    dequantised,
    error,
    from_bf16,
    random_case,
    random_low_rank,
    random_matrices,
    to_bf16,
)

BOUND = 1e-2  # bf16 products throughout
DOT_BOUND = 2e-2  # a routing weight has one number, whose terms cancel

# tokens, hidden, intermediate, experts, top-k
SHAPES = [
    (1, 64, 64, 3, 1),
    (2, 200, 72, 5, 3),
    (9, 129, 130, 4, 2),
    (33, 96, 64, 3, 2),
    (300, 192, 100, 2, 1),
    (40, 1100, 70, 2, 2),
]


def gradients(
    experts: kt_moe.Experts, case: Case, dout: np.ndarray, act: str, mask: np.ndarray | None
) -> twin.Gradients:
    matrices = (m.astype(np.float64) for m in dequantised(experts))
    layer = twin.layer(*matrices, act=act, mask=mask)
    return twin.backward(layer, case.x, case.ids, case.weights, dout)


def check(experts: kt_moe.Experts, case: Case, act: str = "silu", mask: object = None) -> None:
    dout = np.random.default_rng(5).standard_normal(case.x.shape).astype(np.float32)
    wanted = gradients(experts, case, dout, act, mask)
    dx, dweights = experts.backward(case.x, case.ids, case.weights, dout, mask=mask)
    assert error(dx, wanted.x) < BOUND
    assert error(dweights, wanted.weights) < DOT_BOUND


@pytest.mark.parametrize("fmt", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(
    isa: str, fmt: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, e, h, i), format=fmt, top_k=k)
    check(experts, random_case(rng, tokens, h, e, k))


@pytest.mark.parametrize("group", [64, 128])
def test_int4_groups(isa: str, group: int, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 3, 200, 136)
    experts = kt_moe.Experts.from_weights(*matrices, format="int4", group=group, top_k=2)
    check(experts, random_case(rng, 20, 200, 3, 2))


def test_gelu(isa: str, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 3, 64, 64)
    experts = kt_moe.Experts.from_weights(*matrices, format="bf16", top_k=2, act="gelu")
    check(experts, random_case(rng, 20, 64, 3, 2), act="gelu")


def test_masked_experts_and_minus_one_have_no_gradient(isa: str, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 5, 64, 64)
    experts = kt_moe.Experts.from_weights(*matrices, format="int8", top_k=3)
    case = random_case(rng, 12, 64, 5, 3)
    case.ids[::3, 1] = -1
    check(experts, case, mask=np.array([False, True, False, True, False]))


def test_half_precision(isa: str, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 3, 72, 80)
    experts = kt_moe.Experts.from_weights(*matrices, format="bf16", top_k=2)
    case, dout = random_case(rng, 6, 72, 3, 2), rng.standard_normal((6, 72)).astype(np.float32)
    bits = Case(to_bf16(case.x), case.ids, case.weights)
    exact = Case(from_bf16(bits.x), case.ids, case.weights)
    wanted = gradients(experts, exact, from_bf16(to_bf16(dout)), "silu", None)
    dx, dweights = experts.backward(bits.x, bits.ids, bits.weights, to_bf16(dout))
    assert dx.dtype == np.uint16
    assert error(from_bf16(dx), wanted.x) < BOUND
    assert error(dweights, wanted.weights) < DOT_BOUND


def test_no_expert_and_no_token(isa: str, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 2, 64, 64)
    experts = kt_moe.Experts.from_weights(*matrices, format="bf16", top_k=2)
    case = random_case(rng, 4, 64, 2, 2)
    for tokens in (4, 0):
        x, weights = case.x[:tokens], case.weights[:tokens]
        ids = np.full((tokens, 2), -1, np.int32)
        dx, dweights = experts.backward(x, ids, weights, x)
        assert dx.shape == x.shape and not dx.any() and not dweights.any()


@pytest.mark.parametrize("fmt", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "shape", [(1, 64, 64, 3, 1, 4), (9, 129, 70, 4, 2, 1), (90, 80, 130, 3, 2, 8)]
)
def test_low_rank_forward_and_gradients(
    isa: str, fmt: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k, rank = shape
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, e, h, i), format=fmt, top_k=k)
    case, low_rank = random_case(rng, tokens, h, e, k), random_low_rank(rng, e, h, i, rank)
    dout = rng.standard_normal(case.x.shape).astype(np.float32)
    pairs = [twin.LowRank(low_rank[2 * p], low_rank[2 * p + 1], 0.7) for p in range(3)]
    matrices = (m.astype(np.float64) for m in dequantised(experts))
    layer = twin.Layer(*(twin.Projection(m, p) for m, p in zip(matrices, pairs, strict=True)))
    wanted = twin.backward(layer, case.x, case.ids, case.weights, dout)
    y = experts.forward_low_rank(case.x, case.ids, case.weights, low_rank, 0.7)
    assert error(y, twin.forward(layer, case.x, case.ids, case.weights)) < BOUND
    dx, dweights, grads = experts.backward_low_rank(
        case.x, case.ids, case.weights, dout, low_rank, 0.7
    )
    assert error(dx, wanted.x) < BOUND
    assert error(dweights, wanted.weights) < DOT_BOUND
    for p, pair in enumerate((wanted.gate, wanted.up, wanted.down)):
        assert error(grads[2 * p], pair.a) < BOUND
        assert error(grads[2 * p + 1], pair.b) < BOUND


def test_low_rank_of_masked_experts_no_expert_and_no_token(
    isa: str, rng: np.random.Generator
) -> None:
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, 3, 64, 72), format="int4", top_k=2)
    case, low_rank = random_case(rng, 5, 64, 3, 2), random_low_rank(rng, 3, 64, 72, 2)
    everyone = np.ones(3, bool)
    for tokens, mask in ((5, everyone), (0, None)):
        x, ids, weights = case.x[:tokens], case.ids[:tokens], case.weights[:tokens]
        y = experts.forward_low_rank(x, ids, weights, low_rank, 1.0, mask=mask)
        assert y.shape == x.shape and not y.any()
        dx, dweights, grads = experts.backward_low_rank(
            x, ids, weights, x, low_rank, 1.0, mask=mask
        )
        assert not any(g.any() for g in (dx, dweights, *grads))


def test_wrong_low_rank_matrices_are_named(rng: np.random.Generator) -> None:
    experts = kt_moe.Experts.from_weights(*random_matrices(rng, 2, 64, 72), format="bf16", top_k=2)
    case, low_rank = random_case(rng, 4, 64, 2, 2), random_low_rank(rng, 2, 64, 72, 4)
    with pytest.raises(ValueError, match="come in six"):
        experts.backward_low_rank(case.x, case.ids, case.weights, case.x, low_rank[:5], 1.0)
    with pytest.raises(ValueError, match="up_a has shape"):
        wrong = [*low_rank[:2], low_rank[4], *low_rank[3:]]
        experts.backward_low_rank(case.x, case.ids, case.weights, case.x, wrong, 1.0)
    with pytest.raises(TypeError, match="down_b must be float32"):
        wrong = [*low_rank[:5], low_rank[5].astype(np.float16)]
        experts.backward_low_rank(case.x, case.ids, case.weights, case.x, wrong, 1.0)


def test_wrong_dout_is_named(rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 2, 64, 64)
    experts = kt_moe.Experts.from_weights(*matrices, format="bf16", top_k=2)
    case = random_case(rng, 4, 64, 2, 2)
    with pytest.raises(ValueError, match="dout has shape"):
        experts.backward(case.x, case.ids, case.weights, case.x[:3])
    with pytest.raises(TypeError, match="dout and x differ in dtype"):
        experts.backward(case.x, case.ids, case.weights, case.x.astype(np.float16))
