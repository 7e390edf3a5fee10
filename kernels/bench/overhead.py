"""What a call costs beyond its work: the barrier between phases, and a layer too small to matter.

Run with the built package on PYTHONPATH; `--help` lists the choices.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import kt_moe
import numpy as np

EXPERTS, TOP_K, SIZE = 8, 8, 64


def tiny_layer(fmt: str) -> kt_moe.Experts:
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((3, EXPERTS, SIZE, SIZE)).astype(np.float32)
    return kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=TOP_K)


def forward(layer: kt_moe.Experts, tokens: int) -> Callable[[], object]:
    x = np.ones((tokens, SIZE), np.float32)
    ids = np.tile(np.arange(TOP_K, dtype=np.int32), (tokens, 1))
    weights, out = np.ones((tokens, TOP_K), np.float32), np.empty_like(x)
    return lambda: layer.forward(x, ids, weights, out=out)


def median_us(call: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 9 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def thread_counts(text: str) -> list[int]:
    cores = kt_moe.cpu_info()["cores"]
    return [int(n) for n in text.split(",") if n] or sorted({1, max(1, cores - 1), cores})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", default="", help="default: 1, all cores but one, all")
    parser.add_argument("--formats", default="bf16,int8,int4")
    parser.add_argument("--seconds", type=float, default=0.5, help="per figure")
    args = parser.parse_args()
    formats = args.formats.split(",")
    print(f"{kt_moe.cpu_info()['variant']}: microseconds, medians")
    print("threads  barrier  no token", *(f"{f + ', one token':>16}" for f in formats))
    for n in thread_counts(args.threads):
        kt_moe.set_threads(n)
        barrier = kt_moe.limits.barrier(seconds=args.seconds) * 1e6
        empty = median_us(forward(tiny_layer(formats[0]), 0), args.seconds)
        tiny = (median_us(forward(tiny_layer(f), 1), args.seconds) for f in formats)
        print(f"{n:7}  {barrier:7.2f}  {empty:8.2f}", *(f"{us:16.2f}" for us in tiny), flush=True)


if __name__ == "__main__":
    main()
