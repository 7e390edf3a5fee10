"""`GpuLink` on a real GPU: whatever its size and place, what travels arrives whole."""

import kt_moe
import numpy as np
import pytest
import torch
from kt_moe.gpu import GpuBuffers, GpuLink, Sizes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("kernels"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
E, H, K = 8, 256, 3
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture
def experts():
    rng = np.random.default_rng(3)
    shapes = ((E, 64, H), (E, 64, H), (E, H, 64))
    stacks = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return kt_moe.Experts.from_weights(*stacks, format="int8", top_k=K)


def call_of(tokens, dtype="bfloat16", ids_dtype="int64", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, H, generator=generator).to(DTYPES[dtype])
    ids = torch.randint(0, E, (tokens, K), generator=generator).to(getattr(torch, ids_dtype))
    return x, ids, torch.rand(tokens, K, generator=generator)


def moved(tensor, by):
    """On the GPU, `by` elements behind an aligned address."""
    held = torch.empty(tensor.numel() + by, dtype=tensor.dtype, device="cuda")
    held[by:] = tensor.flatten()
    return held[by:].view(tensor.shape)


def through(link, stream, x, ids, weights, out):
    link.enqueue(stream, len(x), *(t.data_ptr() for t in (x, ids, weights, out)))


@pytest.mark.parametrize("way", ["mailbox", "host-function"])
@pytest.mark.parametrize("tokens", [1, 2, 33, 1024, 1500])
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_size_and_place(way, tokens, dtype, experts):
    for ids_dtype, by in (("int64", 0), ("int32", 1), ("int64", 8)):
        link = GpuLink(experts, tokens, dtype, ids_dtype=ids_dtype, way=way)
        call = call_of(tokens, dtype, ids_dtype)
        there, out = [moved(t, by) for t in call], moved(torch.zeros_like(call[0]), by)
        stream = torch.cuda.current_stream()
        through(link, stream.cuda_stream, *there, out)
        stream.synchronize()
        assert torch.equal(out.cpu(), experts.forward(*call))


def test_layers_in_a_graph_follow_what_is_written_between_replays(experts):
    """Every layer's input is the one before's output, all through the same buffers."""
    buffers = GpuBuffers(Sizes(4, H, K))
    links = [GpuLink(experts, 4, buffers=buffers, way="mailbox") for _ in range(20)]
    x, ids, weights = (t.cuda() for t in call_of(4))
    outs = [torch.empty_like(x) for _ in links]

    def layers():
        stream, into = torch.cuda.current_stream().cuda_stream, x
        for link, out in zip(links, outs, strict=True):
            through(link, stream, into, ids, weights, out)
            into = out / out.abs().max()

    layers()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layers()
    for seed in range(200):
        for old, new in zip((x, ids, weights), call_of(4, seed=seed), strict=True):
            old.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
        into = x
        for out in outs:
            wanted = experts.forward(into.cpu(), ids.cpu(), weights.cpu())
            assert torch.equal(out.cpu(), wanted)
            into = out / out.abs().max()


def test_streams_at_once_do_not_mix(experts):
    streams = [torch.cuda.Stream() for _ in range(4)]
    links = [GpuLink(experts, 8, way="mailbox") for _ in streams]
    calls = [call_of(8, seed=n) for n in range(4)]
    there = [[t.cuda() for t in call] for call in calls]
    outs = [torch.empty_like(call[0]) for call in there]
    torch.cuda.synchronize()
    for _ in range(50):
        for stream, link, call, out in zip(streams, links, there, outs, strict=True):
            through(link, stream.cuda_stream, *call, out)
    torch.cuda.synchronize()
    for call, out in zip(calls, outs, strict=True):
        assert torch.equal(out.cpu(), experts.forward(*call))
