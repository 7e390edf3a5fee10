"""Measures this machine's limits and our kernels; runs as a process of its own.

An illegal instruction, should there be one, ends this process and not `kt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kt_moe
import numpy as np

from kt_cli.bench.micro_timing import Request, serve, timed


def _measure(request: Request) -> Iterator[dict[str, Any]]:
    if not kt_moe.available:
        yield {"unavailable": kt_moe.why}
        return
    kt_moe.set_threads(request["threads"])
    threads = kt_moe.threads()
    yield {"cpu": dict(kt_moe.cpu_info()), "threads": threads}
    before = _limits(threads, request["seconds"], request["cache"])
    yield before
    for group in request["groups"]:
        yield from _group(group, threads, request["seconds"])
    # Twice, because a busy neighbour at one moment would make a limit of what is none.
    after = _limits(threads, request["seconds"], request["cache"])
    yield {part: _larger(before[part], after[part]) for part in before}


def _limits(threads: int, seconds: float, cache: int) -> dict[str, Any]:
    counts = sorted({1, threads} | {2**n for n in range(1, 12) if 2**n < threads})
    size = max(1 << 30, 4 * cache)
    read = {n: kt_moe.limits.bandwidth(n, size=size, seconds=seconds) / 1e9 for n in counts}
    peaks = {k: kt_moe.limits.peak(k, threads) / 1e9 for k in kt_moe.limits.KINDS}
    return {"read_gbs": read, "gops": {k: v for k, v in peaks.items() if v}}


def _larger(a: dict[Any, float], b: dict[Any, float]) -> dict[Any, float]:
    return {key: max(value, b.get(key, value)) for key, value in a.items()}


def _group(group: dict[str, Any], threads: int, seconds: float) -> Iterator[dict[str, Any]]:
    """All cases of one format and shape share their layers of experts."""
    layers = [_experts(group) for _ in range(group["layers"])]
    for case in group["cases"]:
        run = _backward if case["backward"] else _forward
        nbytes = layers[0].nbytes / group["experts"] * case["touched"]
        call = run(layers, case, group)
        kt_moe.tuning.settle(call)  # trying other cuts is no part of the figures
        times = timed(call, seconds)
        yield {"row": {"index": case["index"], "threads": threads, "nbytes": nbytes, **times}}


def _experts(group: dict[str, Any]) -> kt_moe.Experts:
    """Experts with the same random weights each, at places of their own in memory."""
    hidden, intermediate = group["hidden"], group["intermediate"]
    experts = kt_moe.Experts(
        group["experts"], hidden, intermediate, format=group["format"], top_k=group["top_k"]
    )
    rng = np.random.default_rng(0)
    up = rng.standard_normal((intermediate, hidden), dtype=np.float32) / np.float32(hidden**0.5)
    experts.set_expert(0, up, up, np.ascontiguousarray(up.T))
    experts.copy_expert(0)
    return experts


def _inputs(case: dict[str, Any], group: dict[str, Any]) -> tuple[Any, list[Any], Any]:
    """x as bf16 bits, one array of ids per call, routing weights."""
    tokens = case["tokens"]
    values = np.random.default_rng(1).standard_normal((tokens, group["hidden"]), dtype=np.float32)
    ids = [np.array(r, np.int32).reshape(tokens, -1) for r in case["routings"]]
    weights = np.full(ids[0].shape, 1 / group["top_k"], np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16), ids, weights


def _forward(
    layers: list[kt_moe.Experts], case: dict[str, Any], group: dict[str, Any]
) -> Callable[[int], None]:
    x, ids, weights = _inputs(case, group)
    out = np.empty_like(x)

    def call(i: int) -> None:
        turn, layer = divmod(i, len(layers))
        layers[layer].forward(x, ids[turn % len(ids)], weights, out=out)

    return call


def _backward(
    layers: list[kt_moe.Experts], case: dict[str, Any], group: dict[str, Any]
) -> Callable[[int], None]:
    """Gradients of x and of the routing weights from x and the output's gradient."""
    x, ids, weights = _inputs(case, group)

    def call(i: int) -> None:
        turn, layer = divmod(i, len(layers))
        layers[layer].backward(x, ids[turn % len(ids)], weights, x)

    return call


if __name__ == "__main__":
    serve(_measure)
