"""Deferred experts: what is left out now arrives with a later call, and nothing is lost."""

from __future__ import annotations

import kt_moe
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .helpers import Case, random_case, random_matrices


@pytest.fixture
def experts(rng: np.random.Generator) -> kt_moe.Experts:
    return kt_moe.Experts.from_weights(*random_matrices(rng, 8, 64, 48), format="bf16", top_k=4)


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    return random_case(rng, 5, 64, 8, 4)


def test_now_and_later_add_up_to_the_whole(experts: kt_moe.Experts, case: Case) -> None:
    now, later = kt_moe.split_deferred(case.ids, case.weights, keep=1)
    assert (later >= 0).any()
    out = experts.forward(case.x, now, case.weights)
    experts.defer(case.x, later, case.weights).add_to(out)
    np.testing.assert_allclose(
        out, experts.forward(case.x, case.ids, case.weights), rtol=1e-5, atol=1e-5
    )


def test_many_may_be_under_way(experts: kt_moe.Experts, case: Case) -> None:
    running = [experts.defer(case.x, case.ids, case.weights) for _ in range(8)]
    whole = experts.forward(case.x, case.ids, case.weights)
    total = np.zeros_like(whole)
    for deferred in running:
        deferred.add_to(total)
    np.testing.assert_allclose(total, 8 * whole, rtol=1e-5, atol=1e-5)


def test_submitted_and_deferred_calls_do_not_mix(experts: kt_moe.Experts, case: Case) -> None:
    deferred = experts.defer(case.x, case.ids, case.weights)
    out = experts.submit(case.x, case.ids, case.weights)
    experts.sync()
    both = out.copy()
    deferred.add_to(both)
    np.testing.assert_array_equal(both, out + out)


def test_bf16_bits_are_added_as_numbers(experts: kt_moe.Experts, case: Case) -> None:
    bits = (case.x.view(np.uint32) >> 16).astype(np.uint16)
    out = experts.forward(bits, case.ids, case.weights)
    alone = (out.astype(np.uint32) << 16).view(np.float32)
    experts.defer(bits, case.ids, case.weights).add_to(out)
    np.testing.assert_array_equal((out.astype(np.uint32) << 16).view(np.float32), 2 * alone)


def test_torch_tensors_stay_torch_tensors(experts: kt_moe.Experts, case: Case) -> None:
    torch = pytest.importorskip("torch")
    x, ids, weights = (torch.from_numpy(a) for a in (case.x, case.ids, case.weights))
    now, later = kt_moe.split_deferred(ids, weights, keep=2)
    assert now.dtype == ids.dtype
    half = x.bfloat16()
    out = experts.forward(half, now, weights)
    experts.defer(half, later, weights).add_to(out)
    whole = experts.forward(half, ids, weights).float()
    assert float((out.float() - whole).norm() / whole.norm()) < 0.01


def test_the_mask_holds_for_deferred_experts_too(experts: kt_moe.Experts, case: Case) -> None:
    out = np.zeros_like(case.x)
    everyone = np.ones(8, bool)
    experts.defer(case.x, case.ids, case.weights, mask=everyone).add_to(out)
    assert not out.any()


def test_wrong_use_is_named(experts: kt_moe.Experts, case: Case) -> None:
    deferred = experts.defer(case.x, case.ids, case.weights)
    with pytest.raises(ValueError, match=r"\[5, 64\] float32, not \[4, 64\] float32"):
        deferred.add_to(np.zeros((4, 64), np.float32))
    out = np.zeros_like(case.x)
    deferred.add_to(out)
    with pytest.raises(RuntimeError, match="added already"):
        deferred.add_to(out)
    with pytest.raises(ValueError, match="keep must not be negative"):
        kt_moe.split_deferred(case.ids, case.weights, -1)
    with pytest.raises(ValueError, match=r"not \[T, K\]"):
        kt_moe.split_deferred(case.ids, case.weights[:, :2], 1)


def test_a_failing_call_fails_where_it_is_added(experts: kt_moe.Experts, case: Case) -> None:
    wrong = np.full_like(case.ids, 99)
    with pytest.raises(ValueError, match="99"):
        experts.defer(case.x, wrong, case.weights).add_to(np.zeros_like(case.x))


def test_dropping_them_unasked_is_safe(experts: kt_moe.Experts, case: Case) -> None:
    for _ in range(50):
        experts.defer(case.x, case.ids, case.weights)
    experts.forward(case.x, case.ids, case.weights)


@given(st.integers(0, 6), st.integers(1, 4), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_every_pair_is_in_one_half_and_the_best_are_now(
    tokens: int, top_k: int, keep: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.permuted(np.tile(np.arange(8, dtype=np.int64), (tokens, 1)), axis=1)[:, :top_k]
    scores = rng.random(ids.shape, dtype=np.float32)
    now, later = kt_moe.split_deferred(ids, scores, keep)
    np.testing.assert_array_equal(np.maximum(now, later), ids)
    assert ((now < 0) != (later < 0)).all()
    best = np.take_along_axis(now, np.argsort(-scores, axis=1, kind="stable")[:, :keep], axis=1)
    assert (best >= 0).all()
    assert not set(now[now >= 0].tolist()) & set(later[later >= 0].tolist())
