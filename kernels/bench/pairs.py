"""Time layers whose down may have another format than gate and up, each called in turn.

    python kernels/bench/pairs.py int8 q4_1+q6_0/16 --shape A --tokens 1

`q4_1+q6_0/16` is q4_1 for gate and up, q6_0 in groups of 16 for down. As all layers take
turns, what else the machine does hits them alike. Prints the best, the 10th percentile, the median.
"""

from __future__ import annotations

import argparse
import time

import kt_moe
import numpy as np
from bench_experts import SHAPES, Shape, routings


def make_layer(shape: Shape, kinds: str) -> kt_moe.Experts:
    """All experts hold the same values: packing is not what is timed."""
    rng = np.random.default_rng(0)
    (fmt, group), (down, down_group) = (coding(k) for k in (kinds + "+" + kinds).split("+")[:2])
    h, i = shape.hidden, shape.intermediate
    layer = kt_moe.Experts(
        shape.experts,
        h,
        i,
        format=fmt,
        group=group,
        down_format=down,
        down_group=down_group,
        top_k=shape.top_k,
    )
    gate, up = (rng.standard_normal((i, h), np.float32) / h**0.5 for _ in range(2))
    layer.set_expert(0, gate, up, rng.standard_normal((h, i), np.float32) / i**0.5)
    layer.copy_expert(0)
    return layer


def coding(text: str) -> tuple[str, int | None]:
    fmt, _, group = text.partition("/")
    return fmt, int(group) if group else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", help="FORMAT[/GROUP][+FORMAT[/GROUP]]")
    parser.add_argument("--shape", choices=SHAPES, default="A")
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--isa", default="")
    args = parser.parse_args()
    kt_moe.use_isa(args.isa)
    layers = {kinds: make_layer(SHAPES[args.shape], kinds) for kinds in args.kinds}
    times: dict[str, list[float]] = {kinds: [] for kinds in layers}
    x = np.random.default_rng(1).standard_normal(
        (args.tokens, SHAPES[args.shape].hidden), np.float32
    )
    for ids, weights in routings(next(iter(layers.values())), args.tokens, args.rounds):
        for kinds, layer in layers.items():
            start = time.perf_counter()
            layer.forward(x, ids, weights)
            times[kinds].append(1e3 * (time.perf_counter() - start))
    print(f"{kt_moe.cpu_info()['variant']}, {kt_moe.threads()} threads, {args.tokens} tokens")
    for kinds, layer in layers.items():
        best, tenth, median = np.percentile(times[kinds], (0, 10, 50))
        size = layer.nbytes / layer.num_experts / 1e6
        print(f"{kinds:16} {size:6.2f} MB an expert  {best:8.3f} {tenth:8.3f} {median:8.3f} ms")


if __name__ == "__main__":
    main()
