"""The same experts as grouped matrix products of torch, for comparison; a process of its own.

Started as a script, also by a Python without kt: it needs torch and the standard library.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHARED = runpy.run_path(str(Path(__file__).with_name("micro_timing.py")))


def _measure(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import torch

    torch.set_num_threads(request["threads"])
    for group in request["groups"]:
        if group["format"] != "bf16":
            yield {"skipped": "torch has no such product", "format": group["format"]}
            continue
        layers = [_weights(group) for _ in range(group["layers"])]
        for case in group["cases"]:
            nbytes = 6 * group["hidden"] * group["intermediate"] * case["touched"]
            times = SHARED["timed"](_call(layers, case, group), request["seconds"])
            head = {"index": case["index"], "threads": request["threads"], "nbytes": nbytes}
            yield {"row": {**head, **times}}


def _weights(group: dict[str, Any]) -> list[Any]:
    import torch

    up = torch.randn(group["intermediate"], group["hidden"]) / group["hidden"] ** 0.5
    halves = [up, up, up.T.contiguous()]
    return [w.bfloat16().expand(group["experts"], *w.shape).clone() for w in halves]


def _call(
    layers: list[list[Any]], case: dict[str, Any], group: dict[str, Any]
) -> Callable[[int], None]:
    import torch

    tokens = case["tokens"]
    x = torch.randn(tokens, group["hidden"]).bfloat16().requires_grad_(case["backward"])
    ids = [torch.tensor(r).reshape(tokens, -1) for r in case["routings"]]
    weights = torch.full(ids[0].shape, 1 / group["top_k"], dtype=torch.bfloat16)

    def call(i: int) -> None:
        turn, layer = divmod(i, len(layers))
        with torch.set_grad_enabled(case["backward"]):
            out = _experts(x, ids[turn % len(ids)], weights, *layers[layer])
        if case["backward"]:
            x.grad = None
            out.backward(torch.ones_like(out))

    return call


def _experts(x: Any, ids: Any, weights: Any, gate: Any, up: Any, down: Any) -> Any:
    import torch
    from torch.nn.functional import silu

    out = torch.zeros_like(x)
    for e in torch.unique(ids).tolist():
        token, slot = torch.where(ids == e)
        rows = x[token]
        y = (silu(rows @ gate[e].T) * (rows @ up[e].T)) @ down[e].T
        out = out.index_add(0, token, y * weights[token, slot, None])
    return out


if __name__ == "__main__":
    SHARED["serve"](_measure)
