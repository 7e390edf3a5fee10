"""The numpy reference against torch's autograd in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kt_moe import reference as ref

ACTS = {
    "silu": torch.nn.functional.silu,
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def case(seed, T, E, K, H, I, rank=0, spare=False):  # noqa: E741
    rng = np.random.default_rng(seed)
    normal = lambda *s: rng.standard_normal(s)  # noqa: E731

    def projection(out, inner):
        lora = ref.LowRank(normal(E, rank, inner), normal(E, out, rank), 0.7) if rank else None
        return ref.Projection(normal(E, out, inner) / np.sqrt(inner), lora)

    x, weights = normal(T, H), rng.random((T, K))
    ids = np.argsort(rng.random((T, E)), axis=1)[:, :K]
    if spare and ids.size:
        ids[0, 0] = -1
    return x, ids, weights, (projection(I, H), projection(I, H), projection(H, I))


def torch_layer(x, ids, weights, projections, act, mask=None):
    """The formula token by token; returns the output and every leaf that has a gradient."""
    leaf = lambda a: torch.tensor(a, dtype=torch.float64, requires_grad=True)  # noqa: E731
    x, weights = leaf(x), leaf(weights)
    loras = [(leaf(p.lora.a), leaf(p.lora.b)) if p.lora else None for p in projections]

    def apply(i, e, row):
        y = torch.tensor(projections[i].weight[e]) @ row
        if loras[i]:
            a, b = loras[i]
            y = y + projections[i].lora.scale * (b[e] @ (a[e] @ row))
        return y

    rows = []
    for t in range(len(ids)):
        total = torch.zeros(x.shape[1], dtype=torch.float64)
        for k, e in enumerate(ids[t].tolist()):
            if e >= 0 and not (mask is not None and mask[e]):
                h = ACTS[act](apply(0, e, x[t])) * apply(1, e, x[t])
                total = total + weights[t, k] * apply(2, e, h)
        rows.append(total)
    out = torch.stack(rows) if rows else torch.zeros_like(x)
    return out, x, weights, loras


shapes = st.tuples(
    st.integers(0, 2**16),
    st.integers(1, 6),
    st.integers(3, 6),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 7),
)


@settings(max_examples=25, deadline=None)
@given(shapes, st.sampled_from(list(ACTS)), st.integers(0, 3), st.booleans())
def test_forward_and_gradients_equal_autograd(shape, act, rank, masked):
    x, ids, weights, projections = case(*shape, rank=rank, spare=True)
    mask = np.arange(shape[2]) == 1 if masked else None
    layer = ref.Layer(*projections, act, mask)
    dout = np.random.default_rng(1).standard_normal(x.shape)

    out, tx, tw, loras = torch_layer(x, ids, weights, projections, act, mask)
    np.testing.assert_allclose(ref.forward(layer, x, ids, weights), out.detach(), atol=1e-10)
    if not out.requires_grad:
        return
    out.backward(torch.tensor(dout))
    grads = ref.backward(layer, x, ids, weights, dout)
    np.testing.assert_allclose(grads.x, tx.grad, atol=1e-9)
    np.testing.assert_allclose(grads.weights, tw.grad, atol=1e-9)
    for ours, theirs in zip((grads.gate, grads.up, grads.down), loras, strict=True):
        if theirs is not None:
            zero = lambda p: p.grad if p.grad is not None else torch.zeros_like(p)  # noqa: E731
            np.testing.assert_allclose(ours.a, zero(theirs[0]), atol=1e-9)
            np.testing.assert_allclose(ours.b, zero(theirs[1]), atol=1e-9)


def test_no_token_gives_an_empty_result():
    x, ids, weights, projections = case(0, 0, 3, 2, 4, 5)
    assert ref.forward(ref.Layer(*projections), x, ids, weights).shape == (0, 4)


def test_an_expert_chosen_twice_by_one_token_counts_twice():
    x, _, _, projections = case(0, 1, 3, 2, 4, 5)
    layer = ref.Layer(*projections)
    once = ref.forward(layer, x, np.array([[2, -1]]), np.array([[1.5, 9.0]]))
    twice = ref.forward(layer, x, np.array([[2, 2]]), np.array([[1.0, 0.5]]))
    np.testing.assert_allclose(once, twice)


def test_an_id_beyond_the_experts_is_refused():
    x, _, weights, projections = case(0, 1, 3, 1, 4, 5)
    with pytest.raises(ValueError, match="expert 3 is chosen, and there are 3"):
        ref.forward(ref.Layer(*projections), x, np.array([[3]]), weights)
