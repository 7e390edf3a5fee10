"""`KTMoEWrapper` on tensors of a GPU: same results, any stream, captured or not."""

import numpy as np
import pytest
import torch
from kt_moe import KTMoEWrapper

from .wrappers import LAYER, expected, inputs, off

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("kernels"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def on_gpu(call):
    return tuple(t.cuda() for t in call)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [1, 7])
def test_results_on_the_gpu_equal_the_reference(tokens, dtype, loaded):
    make, held = loaded
    x, ids, weights = inputs(tokens)
    out = make().forward(*on_gpu((x.to(dtype), ids, weights)), None)
    assert (out.device.type, out.dtype) == ("cuda", dtype)
    assert off(out.cpu(), expected(held, x.to(dtype), ids, weights)) < 0.006


def test_inputs_made_by_pending_work_of_another_stream_are_waited_for(loaded):
    make, held = loaded
    moe = make(gpu_experts_mask=torch.tensor([True, False, False, False]))
    x, ids, weights = inputs()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        moe.submit_forward(*on_gpu((x, ids, weights)), stream.cuda_stream)
        out = moe.sync_forward(x.cuda(), stream.cuda_stream)
    stream.synchronize()
    mask = np.array([True, False, False, False])
    assert off(out.cpu(), expected(held, x, ids, weights, mask=mask)) < 0.006


def test_layers_in_turn_share_their_buffers_without_mixing(loaded):
    make, held = loaded
    KTMoEWrapper.set_capture_batch_sizes([7])
    layers = [make() for _ in range(3)]
    for n, moe in enumerate(layers):
        moe.layer_idx = LAYER + n
    calls = [inputs(seed=n) for n in range(6)]
    outs = [layers[n % 3].forward(*on_gpu(call), None).clone() for n, call in enumerate(calls)]
    torch.cuda.synchronize()
    for call, out in zip(calls, outs, strict=True):
        assert off(out.cpu(), expected(held, *call)) < 0.006
    KTMoEWrapper.set_capture_batch_sizes([])
    KTMoEWrapper.clear_buffer_cache()


def test_deferred_experts_arrive_with_the_next_layer(loaded):
    make, held = loaded
    first, second = make(max_deferred_experts_per_token=1), make()
    second.layer_idx = LAYER + 1
    a, b = inputs(2, seed=1), inputs(2, seed=2)
    a = a[0], torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    now, later = first.select_deferred_experts(a[1], a[2], 1)
    ours = first.forward(*on_gpu(a), None).cpu()
    assert off(ours, expected(held, a[0], now, a[2])) < 0.006
    both = expected(held, *b) + expected(held, a[0], later, a[2])
    assert off(second.forward(*on_gpu(b), None).cpu(), both) < 0.006


def test_a_captured_graph_computes_anew_at_every_replay(loaded):
    make, _held = loaded
    layers = [make(max_deferred_experts_per_token=1), make()]
    layers[1].layer_idx = LAYER + 1
    x, ids, weights = on_gpu(inputs(2))

    def both():
        first = layers[0].forward(x, ids, weights, None)
        return first, layers[1].forward(first, ids, weights, None)

    eager = [t.clone() for t in both()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    for _ in range(3):
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))
    x.copy_(inputs(2, seed=5)[0])
    wanted = [t.clone() for t in both()]
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, wanted, strict=True))


def test_what_the_cpu_finds_wrong_is_raised_by_the_next_call(loaded):
    make, held = loaded
    moe, call = make(), inputs()
    x, ids, weights = on_gpu(call)
    moe.forward(x, torch.full_like(ids, 9), weights, None)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="expert id 9 of token 0"):
        moe.forward(x, ids, weights, None)
    assert off(moe.forward(x, ids, weights, None).cpu(), expected(held, *call)) < 0.006
