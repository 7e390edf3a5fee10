"""Runs inside an engine's interpreter: imports what it needs and runs its kernels. Imports no kt
package but in the environment of the embedded engine.

The argument is the engine's name. Each check gives one line {"check", "state", "detail"} with a
state of ok, failed, or unable: this machine lacks what the check needs.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

TOLERANCE = 2e-2
"""Largest error of a kernel's output, relative to its largest value: bf16 rounds to 4e-3."""


class Unable(Exception):
    """This machine lacks what the check needs."""


def imports(*names: str) -> Callable[[], str]:
    def check() -> str:
        modules = [importlib.import_module(name) for name in names]
        return str(getattr(modules[0], "__version__", "")) or "loads"

    return check


def gpu() -> str:
    """A product on the GPU equals the CPU's."""
    import torch

    need_driver()
    if not torch.cuda.is_available():
        raise Unable("PyTorch finds no GPU")
    x = torch.randn(64, 64)
    error = float((x.cuda() @ x.cuda()).cpu().sub(x @ x).abs().max())
    if error > TOLERANCE * 64:
        raise ArithmeticError(f"a product on the GPU is off by {error:.3g}")
    return str(torch.cuda.get_device_name(0))


def need_driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise Unable("no NVIDIA driver (libcuda.so.1)") from error


def sgl_kernel() -> str:
    need_driver()
    importlib.import_module("sgl_kernel")
    return "loads"


def sglang() -> str:
    """Its arguments' module asks the GPU for its properties when it is imported."""
    need_driver()
    return imports("sglang.srt.server_args")()


def kt_kernel() -> str:
    """One expert layer of kt-kernel in BF16 against the same in PyTorch."""
    import torch

    library = importlib.import_module("kt_kernel")
    moe = library.kt_kernel_ext.moe
    names = ("AMXBF16_MOE", "AVX2BF16_MOE")
    kind = next((c for c in (getattr(moe, name, None) for name in names) if c), None)
    if kind is None:
        raise Unable("kt-kernel has no BF16 experts for this CPU")
    torch.manual_seed(0)
    experts, top_k, hidden, width, tokens = 4, 2, 256, 256, 3
    shapes = ((width, hidden), (width, hidden), (hidden, width))
    gate, up, down = (
        [(torch.randn(s) / 16).bfloat16().contiguous() for _ in range(experts)] for s in shapes
    )
    x, out = torch.randn(tokens, hidden).bfloat16(), torch.empty(tokens, hidden).bfloat16()
    ids = torch.tensor([[0, 1], [2, 3], [1, 3]], dtype=torch.int64)
    weights = torch.full(ids.shape, 0.5)
    run_kt_kernel(library, kind, (gate, up, down), (ids, weights, x, out), top_k)
    expected = torch.zeros(tokens, hidden)
    for t in range(tokens):
        for e, w in zip(ids[t].tolist(), weights[t].tolist(), strict=True):
            row = x[t].float()
            inner = torch.nn.functional.silu(gate[e].float() @ row) * (up[e].float() @ row)
            expected[t] += w * (down[e].float() @ inner)
    return near(out.float(), expected, str(getattr(library, "__cpu_variant__", "")))


def run_kt_kernel(library: Any, kind: Any, matrices: Any, arrays: Any, top_k: int) -> None:
    import torch

    ids, weights, x, out = arrays
    experts, hidden, width = len(matrices[0]), x.shape[1], matrices[0][0].shape[0]
    extension = library.kt_kernel_ext
    pool = extension.WorkerPoolConfig()
    pool.subpool_count, pool.subpool_numa_map, pool.subpool_thread_count = 1, [0], [1]
    engine = extension.CPUInfer(pool)
    mask = torch.zeros(experts, dtype=torch.uint8)
    config = extension.moe.MOEConfig(experts, top_k, hidden, width, mask.data_ptr())
    config.layer_idx, config.pool, config.max_len = 0, engine.backend_, 32
    for name, stack in zip(("gate", "up", "down"), matrices, strict=True):
        setattr(config, f"{name}_projs", [[m.data_ptr() for m in stack]])
        setattr(config, f"{name}_scales", [[0] * experts])
    layer = kind(config)
    order, count = torch.arange(experts), torch.tensor([len(x)], dtype=torch.int32)
    engine.submit(layer.load_weights_task(order.data_ptr()))
    engine.sync()
    pointers = [t.data_ptr() for t in (ids, weights, x, out)]
    engine.submit(layer.forward_task(count.data_ptr(), top_k, *pointers, False))
    engine.sync()


def kt_moe() -> str:
    """One expert layer of kt's own kernels in BF16 against numpy."""
    import numpy as np

    library = importlib.import_module("kt_moe")
    if not library.available:
        raise Unable(library.why)
    random = np.random.default_rng(0)
    gate, up = (random.standard_normal((4, 128, 128), np.float32) / 11 for _ in range(2))
    down = random.standard_normal((4, 128, 128), np.float32) / 11
    x = random.standard_normal((3, 128), np.float32)
    ids = np.array([[0, 1], [2, 3], [1, 3]])
    weights = np.full(ids.shape, 0.5, np.float32)
    layer = library.Experts.from_weights(gate, up, down, format="bf16", top_k=2)
    out = layer.forward(x, ids, weights)
    expected = np.zeros_like(x)
    for t, e in np.ndindex(ids.shape):
        g, u = gate[ids[t, e]] @ x[t], up[ids[t, e]] @ x[t]
        expected[t] += 0.5 * (down[ids[t, e]] @ (g / (1 + np.exp(-g)) * u))
    return near(out, expected, library.cpu_info()["variant"])


def near(out: Any, expected: Any, words: str) -> str:
    error = float(abs(out - expected).max() / abs(expected).max())
    if not error <= TOLERANCE:
        raise ArithmeticError(f"its output is off by {error:.1%}")
    return f"{words}, largest error {error:.1%}".lstrip(", ")


def training_kernels() -> str:
    """kt-kernel's training experts need the instructions of AVX512-BF16."""
    flags = open("/proc/cpuinfo").read().split("flags", 1)[1].split("\n", 1)[0].split()  # noqa: SIM115, PTH123
    missing = {"avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16"} - set(flags)
    if missing:
        raise Unable(f"this CPU lacks {', '.join(sorted(missing))}")
    importlib.import_module("kt_kernel.sft")
    return "loads"


PYTORCH = ("PyTorch", imports("torch"))
GPU = ("PyTorch on the GPU", gpu)
CHECKS: dict[str, Sequence[tuple[str, Callable[[], str]]]] = {
    "sglang": (
        PYTORCH,
        ("transformers", imports("transformers")),
        ("kt-kernel's experts", kt_kernel),
        ("SGLang's kernels", sgl_kernel),
        ("SGLang", sglang),
        GPU,
    ),
    "llamafactory": (
        PYTORCH,
        ("LLaMA-Factory", imports("llamafactory.hparams")),
        ("kt-kernel's experts", kt_kernel),
        ("kt-kernel's training experts", training_kernels),
        GPU,
    ),
    "embedded": (
        PYTORCH,
        ("transformers", imports("transformers", "transformers.modeling_utils")),
        ("the server", imports("starlette", "uvicorn", "jinja2", "kt_cli.embedded.loading")),
        ("kt's experts", kt_moe),
        GPU,
    ),
}


def examine(check: Callable[[], str]) -> dict[str, str]:
    try:
        return {"state": "ok", "detail": check()}
    except Unable as error:
        return {"state": "unable", "detail": str(error)}
    except BaseException as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return {"state": "failed", "detail": f"{type(error).__name__}: {first}"}


def main(name: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]  # noqa: PTH100
    with os.fdopen(os.dup(1), "w") as stream:
        os.dup2(2, 1)
        for title, check in CHECKS[name]:
            for line in ({"check": title}, {"check": title, **examine(check)}):
                stream.write(json.dumps(line) + "\n")
                stream.flush()
    os._exit(0)  # kt-kernel's threads never end by themselves


if __name__ == "__main__":
    main(sys.argv[1])
