"""Time vectors and tiles at a few tokens per expert, as `kt_moe.tuning.calibrate` does.

Run with the built package on PYTHONPATH on a CPU with AMX; `--help` lists the choices.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import kt_moe
from bench_experts import SHAPES, free_bytes, make_layers
from kt_moe import switch


def report(name: str, fmt: str, memory: float) -> None:
    layer = make_layers(SHAPES[name], fmt, memory, cache=0)[0]
    start = time.perf_counter()
    points = switch.times(layer, kt_moe.threads())
    took = time.perf_counter() - start
    for p in points:
        v, t = (f"{min(times) * 1e3:9.3f} {sorted(times)[1] * 1e3:9.3f}" for times in p[1:])
        doubt = "" if p.settled() else "  in doubt"
        print(f"{name:<5} {fmt:<6} {p.tokens:6} {v}  {t} {p.ratio():6.2f}{doubt}")
    rounds = max((len(p.tiles) for p in points), default=0)
    print(f"  tiles from {switch.crossover(points)}; {rounds} rounds, {took:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="A,B")
    parser.add_argument("--formats", default="bf16,int8,int4")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--memory", type=float, default=8, help="GB for one layer, at most")
    parser.add_argument("--isa", default="amx")
    args = parser.parse_args()
    variant = kt_moe.use_isa(args.isa)
    kt_moe.set_threads(args.threads)
    print(f"{variant}, {kt_moe.threads()} threads; shortest and second call in ms;")
    print("ratio: tiles to 97 % of vectors")
    print("shape format tokens   vectors    second      tiles    second  ratio")
    for name, fmt in product(args.shapes.split(","), args.formats.split(",")):
        report(name, fmt, min(args.memory * 1e9, 0.7 * free_bytes()))


if __name__ == "__main__":
    main()
