"""kt-kernel's own operators on the same shapes and routings, for comparison; a process of its own.

Started as a script by a Python that has kt-kernel, torch and the standard library. It drives
kt-kernel's compiled classes as its wrappers do, without their files and pinned memory.
"""

from __future__ import annotations

import importlib
import os
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHARED = runpy.run_path(str(Path(__file__).with_name("micro_timing.py")))

CLASSES = {
    "bf16": ("AMXBF16_MOE", "AVX2BF16_MOE"),
    "int8": ("AMXInt8_MOE",),
    "int4": ("AMXInt4_MOE",),
}
BITS = {"bf16": 16, "int8": 8, "int4": 4}


def _measure(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kt_kernel = importlib.import_module("kt_kernel")

    engine = _engine(kt_kernel.kt_kernel_ext, request["threads"])
    for group in request["groups"]:
        known = CLASSES.get(group["format"], ())
        name = next((c for c in known if _class(c)), None)
        if name is None:
            why = "kt-kernel has none for this CPU" if known else "not driven for kt-kernel"
            yield {"skipped": why, "format": group["format"]}
            continue
        layers = [_Layer(engine, group, _class(name)) for _ in range(group["layers"])]
        for case in group["cases"]:
            if case["backward"]:
                yield {"skipped": "its backward is not driven here", "format": group["format"]}
                continue
            head = {"index": case["index"], "threads": request["threads"]}
            times = SHARED["timed"](_call(layers, case, group), request["seconds"])
            yield {"row": {**head, "nbytes": _nbytes(group) * case["touched"], **times}}


def _engine(ext: Any, threads: int) -> Any:
    config = ext.WorkerPoolConfig()
    config.subpool_count = 1
    config.subpool_numa_map = [0]
    config.subpool_thread_count = [threads]
    return ext.CPUInfer(config)


def _class(name: str) -> Any:
    kt_kernel = importlib.import_module("kt_kernel")

    return getattr(kt_kernel.kt_kernel_ext.moe, name, None)


def _nbytes(group: dict[str, Any]) -> float:
    """Weights of one expert and, where it has them, a float32 scale per row."""
    rows = 2 * group["intermediate"] + group["hidden"]
    weights = float(3 * group["hidden"] * group["intermediate"] * BITS[group["format"]] / 8)
    return weights + (0 if group["format"] == "bf16" else 4 * rows)


class _Layer:
    """Packed experts; the plain weights live until packing is done."""

    def __init__(self, engine: Any, group: dict[str, Any], kind: Any) -> None:
        kt_kernel = importlib.import_module("kt_kernel")
        import torch

        experts, bf16 = group["experts"], group["format"] == "bf16"
        self.engine, self.top_k = engine, group["top_k"]
        self.mask = torch.zeros(experts, dtype=torch.uint8)
        config = kt_kernel.kt_kernel_ext.moe.MOEConfig(
            experts, self.top_k, group["hidden"], group["intermediate"], self.mask.data_ptr()
        )
        config.layer_idx = 0
        config.pool = engine.backend_
        config.max_len = max(case["tokens"] for case in group["cases"])
        up = (
            torch.randn(group["intermediate"], group["hidden"]) / group["hidden"] ** 0.5
        ).bfloat16()
        down = up.T.contiguous()
        stacks = [up, up, down]
        if not bf16:
            stacks = [w.expand(experts, *w.shape).contiguous() for w in stacks]
        _point(config, stacks, experts if bf16 else 0)
        self.moe = kind(config)
        order = torch.arange(experts, dtype=torch.int64)
        engine.submit(self.moe.load_weights_task(order.data_ptr()))
        engine.sync()

    def forward(self, count: Any, ids: Any, weights: Any, x: Any, out: Any) -> None:
        pointers = (t.data_ptr() for t in (count, ids, weights, x, out))
        count_at, *rest = pointers
        self.engine.submit(self.moe.forward_task(count_at, self.top_k, *rest, False))
        self.engine.sync()


def _point(config: Any, stacks: list[Any], experts: int) -> None:
    """Native classes take a pointer for every expert, quantising ones a pointer for the stack."""
    for name, weights in zip(("gate", "up", "down"), stacks, strict=True):
        if experts:
            setattr(config, f"{name}_projs", [[weights.data_ptr()] * experts])
            setattr(config, f"{name}_scales", [[0] * experts])
        else:
            setattr(config, f"{name}_proj", weights.data_ptr())


def _call(
    layers: list[_Layer], case: dict[str, Any], group: dict[str, Any]
) -> Callable[[int], None]:
    import torch

    tokens = case["tokens"]
    x = torch.randn(tokens, group["hidden"]).bfloat16()
    out = torch.empty_like(x)
    ids = [torch.tensor(r, dtype=torch.int64).reshape(tokens, -1) for r in case["routings"]]
    weights = torch.full(ids[0].shape, 1 / group["top_k"], dtype=torch.float32)
    count = torch.tensor([tokens], dtype=torch.int32)

    def call(i: int) -> None:
        turn, layer = divmod(i, len(layers))
        layers[layer].forward(count, ids[turn % len(ids)], weights, x, out)

    return call


if __name__ == "__main__":
    SHARED["serve"](_measure)
    # Its threads spin on after their work is done; leaving at once is the only quick way out.
    os._exit(0)
