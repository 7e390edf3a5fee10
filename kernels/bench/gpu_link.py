"""Time a layer's way GPU → CPU → GPU in a captured graph of 48 layers, beyond two tiny kernels.

Then layers with real experts, beside blocking calls and with time for the GPU's part between them.
Needs torch with CUDA and the built package on PYTHONPATH.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import kt_moe
import numpy as np
import torch
from bench_experts import SHAPES, make_layer, routings
from kt_moe.gpu import GpuBuffers, GpuLink, Sizes, Way, wake

LAYERS = 48
GAPS = 0, 30, 100, 500  # us of the GPU's part of a layer
WAYS: tuple[Way, ...] = ("mailbox", "host-function")
Body = Callable[[int], None]


def graph_of(body: Body) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        body(stream.cuda_stream)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            body(stream.cuda_stream)
    return graph


def replay_us(
    graph: torch.cuda.CUDAGraph,
    n: int = 200,
    before: Callable[[], None] | None = None,
    layers: int = LAYERS,
) -> float:
    """Microseconds a layer, the median of n replays."""
    times = []
    for _ in range(n):
        if before is not None:
            before()
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times)) / layers


def tiny(x: torch.Tensor) -> None:
    x.add_(1)
    x.mul_(0.5)


def idle() -> None:
    time.sleep(0.1)


def idle_and_wake() -> None:
    idle()
    wake()


def handshakes() -> None:
    """No token has an expert here: what is timed is the way there and back."""
    hidden, top_k = 64, 2
    experts = kt_moe.Experts(4, hidden, 64, format="int8", top_k=top_k)
    x = torch.zeros(1, hidden, device="cuda", dtype=torch.bfloat16)
    out = torch.zeros_like(x)
    ids = torch.full((1, top_k), -1, device="cuda")
    weights = torch.ones(1, top_k, device="cuda")
    copied = tuple(t.data_ptr() for t in (x, ids, weights, out))

    def kernels_alone(stream: int) -> None:
        for _ in range(LAYERS):
            tiny(x)

    alone = replay_us(graph_of(kernels_alone))
    print(f"two tiny kernels {alone:.2f} us a layer; beyond them:")

    def report(what: str, links: list[GpuLink], addresses: tuple[int, ...], threads: int) -> None:
        kt_moe.set_threads(threads)

        def body(stream: int) -> None:
            for link in links:
                tiny(x)
                link.enqueue(stream, 1, *addresses)

        graph = graph_of(body)
        late = [replay_us(graph, 10, pause) - alone for pause in (idle, idle_and_wake)]
        print(
            f"{what:34} {replay_us(graph) - alone:6.2f}, after 100 ms {late[0]:6.2f}, "
            f"with wake {late[1]:6.2f}",
            flush=True,
        )

    cores = kt_moe.cpu_info()["cores"]
    for way in WAYS:
        buffers = GpuBuffers(Sizes(1, hidden, top_k))
        buffers.ids[:] = -1
        links = [GpuLink(experts, 1, way=way, buffers=buffers) for _ in range(LAYERS)]
        report(f"{way}, no copies, 1 thread", links, (0, 0, 0, 0), 1)
        report(f"{way}, four copies, 1 thread", links, copied, 1)
        report(f"{way}, four copies, {cores} threads", links, copied, cores)
        torch.cuda.synchronize()


def cycles_per_us() -> float:
    torch.cuda._sleep(1000)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    marks[0].record()
    torch.cuda._sleep(20_000_000)
    marks[1].record()
    torch.cuda.synchronize()
    return 20_000 / float(marks[0].elapsed_time(marks[1]))


def blocking_us(calls: Sequence[Callable[[], object]], gap_us: float, n: int = 30) -> float:
    times = []
    for call in [*calls] * n:
        end = time.perf_counter() + 1e-6 * gap_us
        while time.perf_counter() < end:
            pass
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times))


@dataclass(frozen=True)
class Layers:
    """One token through as many layers as there are ids, all of them parts of one."""

    experts: kt_moe.Experts
    x: torch.Tensor
    ids: list[torch.Tensor]
    weights: torch.Tensor

    @classmethod
    def like_qwen3_30b(cls, fmt: str, count: int) -> Layers:
        experts = make_layer(SHAPES["A"], fmt, np.random.default_rng(0))
        picks = [torch.from_numpy(ids).long() for ids, _ in routings(experts, 1, count)]
        x = torch.randn(1, experts.hidden, dtype=torch.bfloat16)
        return cls(experts, x, picks, torch.full((1, experts.top_k), 1 / experts.top_k))

    def blocking_us(self, gap: int) -> float:
        forward = self.experts.forward
        return blocking_us([partial(forward, self.x, ids, self.weights) for ids in self.ids], gap)

    def in_graph_us(self, way: Way, gap: int, per_us: float) -> float:
        buffers = GpuBuffers(Sizes(1, self.experts.hidden, self.experts.top_k))
        links = [GpuLink(self.experts, 1, way=way, buffers=buffers) for _ in self.ids]
        x, weights, out = self.x.cuda(), self.weights.cuda(), self.x.cuda()
        there = [ids.cuda() for ids in self.ids]

        def layers(stream: int, call: bool) -> None:
            for link, ids in zip(links, there, strict=True):
                torch.cuda._sleep(int(gap * per_us))
                if call:
                    link.enqueue(stream, 1, *(t.data_ptr() for t in (x, ids, weights, out)))

        took = [
            replay_us(graph_of(partial(layers, call=call)), 50, layers=len(links))
            for call in (True, False)
        ]
        torch.cuda.synchronize()
        return took[0] - took[1]


def real_layers(fmt: str = "int8") -> None:
    layers, per_us = Layers.like_qwen3_30b(fmt, 16), cycles_per_us()
    print(f"a layer of Qwen3-30B-A3B in {fmt}, one token; us beyond the gap before each:")
    for gap in GAPS:
        ways = (f"{way} {layers.in_graph_us(way, gap, per_us):6.1f}" for way in WAYS)
        print(f"gap {gap:4}: blocking {layers.blocking_us(gap):6.1f},", ", ".join(ways), flush=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU that PyTorch can use")
    handshakes()
    real_layers()
