"""Time the expert kernels against what this machine can do, in the same run.

Weights rotate over more memory than four times the last-level cache, so decode reads from memory.
Run with the built package on PYTHONPATH; `--help` lists the choices.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import kt_moe
import numpy as np
from neighbour import busy_neighbour


@dataclass(frozen=True)
class Shape:
    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int


SHAPES = {
    "A": Shape("A", 128, 8, 2048, 768),
    "B": Shape("B", 64, 8, 7168, 2048),
}
BYTES_PER_WEIGHT = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}
CUT_TRIALS = 16  # calls until the fastest cut of a tile product is found
PEAK = {"bf16": "bf16", "int8": "int8", "int4": "int8"}


def cache_bytes() -> int:
    sizes = [
        p.read_text().strip() for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("*/size")
    ]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(s[:-1]) * units[s[-1]] for s in sizes), default=64 << 20)


def free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def make_layer(shape: Shape, fmt: str, rng: np.random.Generator) -> kt_moe.Experts:
    """All experts hold the same values: packing is not what is timed."""
    h, i = shape.hidden, shape.intermediate
    layer = kt_moe.Experts(shape.experts, h, i, format=fmt, top_k=shape.top_k)
    gate, up = (rng.standard_normal((i, h), np.float32) / h**0.5 for _ in range(2))
    down = rng.standard_normal((h, i), np.float32) / i**0.5
    layer.set_expert(0, gate, up, down)
    layer.copy_expert(0)
    return layer


def make_layers(
    shape: Shape, fmt: str, memory: float, cache: int | None = None
) -> list[kt_moe.Experts]:
    """Together more than four times the cache; None: the CPU's last one."""
    rng = np.random.default_rng(0)
    size = BYTES_PER_WEIGHT[fmt] * 3 * shape.hidden * shape.intermediate * shape.experts
    experts = min(shape.experts, max(shape.top_k, int(memory / size * shape.experts)))
    shape = Shape(shape.name, experts, shape.top_k, shape.hidden, shape.intermediate)
    first = make_layer(shape, fmt, rng)
    count = max(1, -(-4 * (cache_bytes() if cache is None else cache) // first.nbytes))
    return [first, *(make_layer(shape, fmt, rng) for _ in range(count - 1))]


def routings(layer: kt_moe.Experts, tokens: int, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(tokens)
    for _ in range(n):
        picks = rng.random((tokens, layer.num_experts)).argpartition(layer.top_k, axis=1)
        ids = np.ascontiguousarray(picks[:, : layer.top_k], np.int32)
        yield ids, np.full(ids.shape, 1 / layer.top_k, np.float32)


@dataclass(frozen=True)
class Timing:
    ms: float
    p10_ms: float
    bytes: float
    ops: float
    phases: list[float]  # of the call, together 1


def time_calls(
    layers: list[kt_moe.Experts], tokens: int, seconds: float, trials: int = CUT_TRIALS
) -> Timing:
    """The median call, its bytes and operations. No call meets its experts in a cache."""
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((tokens, layers[0].hidden), np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    )
    out = np.empty_like(x)
    cases = list(routings(layers[0], tokens, 24 if tokens < 128 else 3))
    touched = float(np.median([np.unique(ids).size for ids, _ in cases]))
    for i in range(trials if kt_moe.cpu_info()["variant"] == "amx" else 0):
        layers[i % len(layers)].forward(x, *cases[i % len(cases)], out=out)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        turn, at = divmod(len(times), len(layers))
        layer, (ids, weights) = layers[at], cases[turn % len(cases)]
        start = time.perf_counter()
        layer.forward(x, ids, weights, out=out)
        times.append(time.perf_counter() - start)
    one = layers[0].nbytes / layers[0].num_experts
    ops = 6.0 * tokens * layers[0].top_k * layers[0].hidden * layers[0].intermediate
    phases = np.array(kt_moe.limits.phases(layers[0], x, *cases[0], out))
    shares = phases / max(phases.sum(), 1e-12)
    ms, p10 = (float(np.percentile(times[1:], q)) * 1e3 for q in (50, 10))
    return Timing(ms, p10, touched * one, ops, shares.tolist())


def limits(threads: list[int]) -> tuple[dict[int, float], dict[tuple[str, int], float]]:
    rates: dict[tuple[str, int], float] = {}
    bandwidth: dict[int, float] = {}
    for n in threads:
        bandwidth[n] = kt_moe.limits.bandwidth(n)
        parts = [f"read {bandwidth[n] / 1e9:.1f} GB/s"]
        for kind in kt_moe.limits.KINDS:
            rates[kind, n] = kt_moe.limits.peak(kind, n)
            if rates[kind, n]:
                parts.append(f"{kind} {rates[kind, n] / 1e12:.2f}")
        print(f"limits, {n} threads: " + ", ".join(parts) + " Top/s", flush=True)
    return bandwidth, rates


def print_row(name: str, fmt: str, tokens: int, n: int, t: Timing, read: float, top: float) -> None:
    cut = ",".join(str(int(n)) for n in kt_moe.limits.last_cut())
    phases = "/".join(f"{100 * p:.0f}" for p in t.phases)
    print(
        f"{name:<6}{fmt:5} {tokens:<5} {n:<3} {t.ms:9.3f} {t.bytes / t.ms / 1e6:8.1f} "
        f"{100e3 * t.bytes / t.ms / read:5.0f}% {t.ops / t.ms / 1e9:7.3f} "
        f"{100e3 * t.ops / t.ms / top:5.0f}%  {phases}  {cut}",
        flush=True,
    )


def report(args: argparse.Namespace) -> None:
    info = kt_moe.cpu_info()
    print(f"variant {info['variant']}, {info['cores']} cores, cache {cache_bytes() >> 20} MiB")
    threads = numbers(args.threads) or [info["cores"]]
    bandwidth, rates = limits(threads)
    print("shape fmt   T     thr        ms     GB/s  %read    TF/s  %peak  phases (%), cut")
    for name, fmt in product(args.shapes.split(","), args.formats.split(",")):
        layers = make_layers(SHAPES[name], fmt, min(args.memory * 1e9, 0.7 * free_bytes()))
        for cut, tokens, n in product(args.cuts.split(), numbers(args.tokens), threads):
            pinned = cut != "auto"
            kt_moe.limits.pin_cut(kt_moe.limits.Cut(*numbers(cut)) if pinned else None)
            kt_moe.set_threads(n)
            timing = time_calls(layers, tokens, args.seconds, 2 if pinned else CUT_TRIALS)
            top = rates.get((f"amx-{PEAK[fmt]}", n), 0) or rates[PEAK[fmt], n]
            label = f"{name}/{layers[0].num_experts}"
            print_row(label, fmt, tokens, n, timing, bandwidth[n], top)
        del layers


def report_neighbour(args: argparse.Namespace) -> None:
    """All cores and all but one, alone and beside a process that keeps one core busy."""
    cores = kt_moe.cpu_info()["cores"]
    print("shape fmt   T     thr  alone ms  p10 ms   beside ms  p10 ms")
    for name, fmt in product(args.shapes.split(","), args.formats.split(",")):
        layers = make_layers(SHAPES[name], fmt, min(args.memory * 1e9, 0.7 * free_bytes()))
        for tokens, n in product(numbers(args.tokens), sorted({max(1, cores - 1), cores})):
            kt_moe.set_threads(n)
            row = f"{name}/{layers[0].num_experts:<4}{fmt:5} {tokens:<5} {n:<4}"
            for active in (False, True):
                with busy_neighbour(active):
                    timing = time_calls(layers, tokens, args.seconds)
                row += f" {timing.ms:9.3f} {timing.p10_ms:8.3f}  "
            print(row, flush=True)


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="A,B")
    parser.add_argument("--formats", default="bf16,int8,int4")
    parser.add_argument("--tokens", default="1,4,32,512,2048")
    parser.add_argument("--threads", default="", help="comma-separated; default: all cores")
    parser.add_argument("--memory", type=float, default=40, help="GB for one layer, at most")
    parser.add_argument("--seconds", type=float, default=1.0, help="per case")
    parser.add_argument("--isa", default="")
    parser.add_argument(
        "--cuts",
        default="8,16,16",
        help="depth,panels,blocks of the tile products; several in turn",
    )
    parser.add_argument("--tile-from", type=int, default=0, help="tokens per expert to use tiles")
    parser.add_argument(
        "--neighbour", action="store_true", help="all cores and one less, beside a busy process"
    )
    args = parser.parse_args()
    kt_moe.use_isa(args.isa)
    kt_moe.limits.set_tile_from(args.tile_from)
    report_neighbour(args) if args.neighbour else report(args)


if __name__ == "__main__":
    main()
