"""Gradients of the routed experts: gradcheck in float64, the reference, and packed weights."""

import kt_moe
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kt_moe import reference as ref
from kt_moe.autograd import Lora, routed_experts

E, H, I, R = 4, 6, 5, 2  # noqa: E741


class FloatBase:
    """Float64 matrices behind the interface of packed experts."""

    def __init__(self, act="silu", seed=0):
        rng = np.random.default_rng(seed)
        shapes = ((E, I, H), (E, I, H), (E, H, I))
        self.matrices = [rng.standard_normal(s) / np.sqrt(s[2]) for s in shapes]
        self.act, self.num_experts = act, E

    def dequantised(self, expert):
        return tuple(m[expert] for m in self.matrices)


def leaf(*shape, seed):
    tensor = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return tensor.requires_grad_()


def pairs(hidden=H, inter=I, count=E):
    shapes = [(R, hidden), (inter, R), (R, hidden), (inter, R), (R, inter), (hidden, R)]
    return [leaf(count, *s, seed=10 + i) for i, s in enumerate(shapes)]


IDS = torch.tensor([[0, 1], [1, 3], [3, -1]])


@pytest.mark.parametrize("act", ["silu", "gelu"])
@pytest.mark.parametrize("mask", [None, torch.tensor([False, True, False, False])])
def test_gradcheck_with_low_rank_pairs(act, mask):
    base = FloatBase(act)

    def run(x, weights, *low_rank):
        return routed_experts(x, IDS, weights, base, mask=mask, lora=Lora(*low_rank, scale=0.7))

    inputs = (leaf(3, H, seed=1), leaf(3, 2, seed=2), *pairs())
    assert torch.autograd.gradcheck(run, inputs)


def test_gradcheck_without_low_rank_pairs():
    run = lambda x, weights: routed_experts(x, IDS, weights, FloatBase())  # noqa: E731
    assert torch.autograd.gradcheck(run, (leaf(3, H, seed=1), leaf(3, 2, seed=2)))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**16), st.integers(0, 5), st.integers(1, 3), st.sampled_from(["silu", "gelu"])
)
def test_gradients_equal_the_numpy_reference(seed, tokens, top_k, act):
    rng = np.random.default_rng(seed)
    base, low_rank = FloatBase(act, seed), pairs()
    ids = rng.integers(-1, E, (tokens, top_k))
    x, weights = leaf(tokens, H, seed=seed), leaf(tokens, top_k, seed=seed + 1)
    out = routed_experts(x, torch.from_numpy(ids), weights, base, lora=Lora(*low_rank, scale=0.5))
    dout = torch.randn(out.shape, dtype=torch.float64)
    out.backward(dout)

    halves = [t.detach().numpy() for t in low_rank]
    loras = [ref.LowRank(halves[i], halves[i + 1], 0.5) for i in (0, 2, 4)]
    layer = ref.Layer(*map(ref.Projection, base.matrices, loras), act)
    arrays = (x.detach().numpy(), ids, weights.detach().numpy())
    np.testing.assert_allclose(out.detach(), ref.forward(layer, *arrays), atol=1e-12)
    grads = ref.backward(layer, *arrays, dout.numpy())
    theirs = [grads.gate.a, grads.gate.b, grads.up.a, grads.up.b, grads.down.a, grads.down.b]
    for ours, expected in zip(
        (x, weights, *low_rank), (grads.x, grads.weights, *theirs), strict=True
    ):
        np.testing.assert_allclose(ours.grad, expected, atol=1e-11)


SIZES = (4, 128, 64)  # experts, hidden, intermediate


def packed(format):
    rng, (count, hidden, inter) = np.random.default_rng(3), SIZES
    shapes = ((count, inter, hidden), (count, inter, hidden), (count, hidden, inter))
    gate, up, down = ((rng.standard_normal(s) / np.sqrt(s[2])).astype(np.float32) for s in shapes)
    return kt_moe.Experts.from_weights(gate, up, down, format=format, top_k=2)


def held_by(experts, low_rank=()):
    matrices = map(np.stack, zip(*map(experts.dequantised, range(SIZES[0])), strict=True))
    halves = [t.detach().double().numpy() for t in low_rank]
    loras = [ref.LowRank(*halves[i : i + 2], 0.5) for i in range(0, len(halves), 2)] or [None] * 3
    return ref.Layer(*(ref.Projection(*p) for p in zip(matrices, loras, strict=True)))


def assert_close(ours, expected, limit):
    off = np.linalg.norm(ours.detach().double().numpy() - expected)
    assert off < limit * np.linalg.norm(expected)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(("format", "limit"), [("bf16", 0.01), ("int8", 0.03), ("int4", 0.03)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_experts_have_the_gradients_of_the_weights_they_hold(format, limit, dtype):
    experts = packed(format)
    x = torch.randn(9, SIZES[1]).to(dtype).requires_grad_()
    ids, weights = torch.randint(0, SIZES[0], (9, 2)), torch.rand(9, 2).requires_grad_()
    out = routed_experts(x, ids, weights, experts)
    dout = torch.randn(out.shape).to(dtype)
    out.backward(dout)

    arrays = (x.detach().double().numpy(), ids.numpy(), weights.detach().double().numpy())
    grads = ref.backward(held_by(experts), *arrays, dout.double().numpy())
    assert_close(out, ref.forward(held_by(experts), *arrays), limit)
    assert_close(x.grad, grads.x, 0.01)
    assert_close(weights.grad, grads.weights, 0.01)
    assert (out.dtype, x.grad.dtype, weights.grad.dtype) == (dtype, dtype, torch.float32)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_experts_train_low_rank_pairs(format, dtype):
    experts, low_rank = packed(format), [t.float().detach() for t in pairs(*SIZES[1:], SIZES[0])]
    low_rank = [(t / t.shape[2] ** 0.5).to(dtype).requires_grad_() for t in low_rank]
    x = torch.randn(20, SIZES[1]).to(dtype).requires_grad_()
    ids, weights = torch.randint(-1, SIZES[0], (20, 2)), torch.rand(20, 2).requires_grad_()
    out = routed_experts(x, ids, weights, experts, lora=Lora(*low_rank, scale=0.5))
    dout = torch.randn(out.shape).to(dtype)
    out.backward(dout)

    layer = held_by(experts, low_rank)
    arrays = (x.detach().double().numpy(), ids.numpy(), weights.detach().double().numpy())
    grads = ref.backward(layer, *arrays, dout.double().numpy())
    theirs = [g for p in (grads.gate, grads.up, grads.down) for g in (p.a, p.b)]
    assert_close(out, ref.forward(layer, *arrays), 0.01)
    assert_close(weights.grad, grads.weights, 0.02)
    for leaf, expected in zip((x, *low_rank), (grads.x, *theirs), strict=True):
        assert_close(leaf.grad, expected, 0.01)
        assert leaf.grad.dtype == dtype


@pytest.mark.usefixtures("kernels")
def test_packed_experts_differentiate_in_float64_and_with_pairs_of_two_ranks():
    experts, (count, hidden, inter) = packed("int8"), SIZES
    low_rank = pairs(hidden, inter, count)
    low_rank[4:] = [leaf(count, R + 1, inter, seed=20), leaf(count, hidden, R + 1, seed=21)]
    x, weights = leaf(3, hidden, seed=1), leaf(3, 2, seed=2)
    ids = torch.tensor([[0, 1], [1, 3], [3, -1]])
    wide = routed_experts(x, ids, weights, experts, lora=Lora(*low_rank))
    narrow = [t.detach().float() for t in (x, weights, *low_rank)]
    out = routed_experts(narrow[0], ids, narrow[1], experts, lora=Lora(*narrow[2:]))
    assert_close(out, wide.detach().numpy(), 1e-5)
    wide.sum().backward()
    routed_experts(x, ids, weights, experts).sum().backward()
    assert x.grad.dtype == torch.float64 and x.grad.isfinite().all()


def test_a_base_with_a_backward_of_its_own_is_asked():
    class Own(FloatBase):
        def backward(self, x, ids, weights, dout, *, mask):
            return torch.full_like(x, 2.0), torch.full_like(weights, 3.0)

    x, weights = (leaf(3, n, seed=1).detach().float().requires_grad_() for n in (H, 2))
    routed_experts(x, IDS, weights, Own()).sum().backward()
    assert (x.grad == 2).all() and (weights.grad == 3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.tensor([[0, 9], [1, 2], [0, 1]])}, "expert 9 is chosen, and there are 4"),
        ({"weights": torch.ones(3, 3)}, r"weights are \[3, 3\], ids \[3, 2\]"),
        ({"x": torch.ones(2, H)}, r"not \[T, H\], \[T, K\]"),
        ({"mask": torch.zeros(3, dtype=torch.bool)}, r"mask is \[3\], not \[4\]"),
        ({"lora": Lora(*pairs(count=3))}, r"gate_a is \[3, 2, 6\], not \[4"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"x": torch.ones(3, H), "ids": IDS, "weights": torch.ones(3, 2)} | change
    with pytest.raises(ValueError, match=message):
        routed_experts(base=FloatBase(), **arguments)
