"""Many small random calls in one process: KT_FUZZ_CALLS=1000000 for the long run."""

from __future__ import annotations

import os
from collections.abc import Callable

import kt_moe
import numpy as np
import pytest
from kt_moe import reference as twin
from kt_moe._native import core

from .helpers import Case, dequantised, error, from_bf16, to_bf16

CALLS = int(os.environ.get("KT_FUZZ_CALLS", "3000"))
SEED = int(os.environ.get("KT_FUZZ_SEED", "11"))
CALLS_PER_LAYER = 150
COMPARED = 10  # one call in so many
ENOUGH = 32  # rows and columns from which quantisation noise averages
BOUND = 0.15


class Layer:
    def __init__(self, rng: np.random.Generator) -> None:
        h, i, e = (int(rng.integers(1, n)) for n in (140, 140, 9))
        up = (rng.standard_normal((2, e, i, h)) / np.sqrt(h)).astype(np.float32)
        down = (rng.standard_normal((e, h, i)) / np.sqrt(i)).astype(np.float32)
        kind, of_down = (str(k) for k in rng.choice(core().formats(), 2))
        self.experts = kt_moe.Experts.from_weights(
            *up,
            down,
            format=kind,
            group=int(rng.choice(core().groups(kind))),
            down_format=of_down,
            down_group=int(rng.choice(core().groups(of_down))),
            top_k=int(rng.integers(1, e + 1)),
            act="gelu" if rng.random() < 0.3 else "silu",
        )
        self.matrices = dequantised(self.experts)
        self.twin = twin.layer(*self.matrices, act=self.experts.act)

    def case(self, rng: np.random.Generator) -> Case:
        e, k, tokens = self.experts.num_experts, self.experts.top_k, int(rng.integers(0, 34))
        ids = rng.integers(-1, e, (tokens, k)).astype(rng.choice([np.int32, np.int64]))
        x = rng.standard_normal((tokens, self.experts.hidden)).astype(np.float32)
        return Case(x, ids, rng.random((tokens, k)).astype(np.float32))


def forward(layer: Layer, case: Case, compare: bool) -> None:
    got = layer.experts.forward(case.x, case.ids, case.weights)
    assert np.isfinite(got).all()
    if compare:
        assert error(got, twin.forward(layer.twin, case.x, case.ids, case.weights)) < BOUND


def in_bf16(layer: Layer, case: Case, compare: bool) -> None:
    x = to_bf16(case.x)
    got = from_bf16(layer.experts.forward(x, case.ids, case.weights))
    if compare:
        wanted = twin.forward(layer.twin, from_bf16(x), case.ids, case.weights)
        assert error(got, wanted) < BOUND


def backward(layer: Layer, case: Case, compare: bool) -> None:
    dx, dweights = layer.experts.backward(case.x, case.ids, case.weights, case.x)
    if compare:
        wanted = twin.backward(layer.twin, case.x, case.ids, case.weights, case.x)
        assert error(dx, wanted.x) < BOUND
    assert np.isfinite(dweights).all()


def low_rank(layer: Layer, case: Case, compare: bool) -> None:
    own, rng = layer.experts, np.random.default_rng(case.x.size)
    e, h, i, rank = own.num_experts, own.hidden, own.intermediate, int(rng.integers(1, 6))
    shapes = [(rank, h), (i, rank), (rank, h), (i, rank), (rank, i), (h, rank)]
    matrices = [rng.standard_normal((e, *s), np.float32) / np.float32(s[1]) ** 0.5 for s in shapes]
    arguments = (case.x, case.ids, case.weights)
    out = own.forward_low_rank(*arguments, matrices, 0.5)
    dx, dweights, grads = own.backward_low_rank(*arguments, case.x, matrices, 0.5)
    assert all(np.isfinite(g).all() for g in (out, dx, dweights, *grads))
    if compare:
        pairs = [twin.LowRank(*matrices[n : n + 2], 0.5) for n in (0, 2, 4)]
        projections = (twin.Projection(*p) for p in zip(layer.matrices, pairs, strict=True))
        changed = twin.Layer(*projections, act=own.act)
        wanted = twin.backward(changed, *arguments, case.x)
        assert error(out, twin.forward(changed, *arguments)) < BOUND
        assert error(dx, wanted.x) < BOUND
        assert error(grads[4], wanted.down.a) < BOUND


def in_background(layer: Layer, case: Case, compare: bool) -> None:
    arguments = (case.x, case.ids, case.weights)
    out = layer.experts.submit(*arguments)
    own = layer.experts.forward(*arguments)
    layer.experts.sync()
    np.testing.assert_array_equal(out, own)


def masked_out(layer: Layer, case: Case, compare: bool) -> None:
    mask = np.ones(layer.experts.num_experts, bool)
    assert not layer.experts.forward(case.x, case.ids, case.weights, mask=mask).any()


def refused(layer: Layer, case: Case, compare: bool) -> None:
    if case.ids.size:
        case.ids.flat[-1] = layer.experts.num_experts
        with pytest.raises(ValueError, match="out of range"):
            layer.experts.forward(case.x, case.ids, case.weights)


Kind = Callable[[Layer, Case, bool], None]
KINDS: dict[Kind, float] = {
    forward: 0.4,
    in_bf16: 0.2,
    backward: 0.15,
    low_rank: 0.1,
    in_background: 0.05,
    masked_out: 0.05,
    refused: 0.05,
}


def test_many_small_calls(isa: str) -> None:
    rng = np.random.default_rng(SEED)
    calls = CALLS // max(1, len(kt_moe.cpu_info()["variants"]))
    layer = Layer(rng)
    for i in range(calls):
        if i % CALLS_PER_LAYER == 0:
            layer = Layer(rng)
        kind = list(KINDS)[int(rng.choice(len(KINDS), p=list(KINDS.values())))]
        wide = min(layer.experts.hidden, layer.experts.intermediate) >= ENOUGH
        kind(layer, layer.case(rng), wide and i % COMPARED == 0)
