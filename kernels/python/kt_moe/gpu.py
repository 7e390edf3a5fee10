"""Experts in CPU memory, called from a CUDA stream: `GpuLink`.

Everything is enqueued, nothing waits: the stream copies the inputs into page-locked memory, asks a
CPU thread for the experts, waits for the answer and copies the output back. All of it can be
captured in a CUDA graph; the link must live as long as the graph. CUDA is reached through its
driver alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from kt_moe._native import core
from kt_moe.experts import Experts

Array: TypeAlias = npt.NDArray[Any]
DtypeName: TypeAlias = Literal["float32", "float16", "bfloat16"]
IdsName: TypeAlias = Literal["int32", "int64"]
Way: TypeAlias = Literal["auto", "mailbox", "host-function"]
FLOATS: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
}
_ALIGN = 256


class GpuError(RuntimeError):
    """CUDA's driver is missing, or refused: the message holds its function and its code."""


def _driver(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except core().CudaError as error:
        raise GpuError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Sizes:
    """What buffers must hold: they serve every link of the same sizes."""

    max_tokens: int
    hidden: int
    top_k: int
    dtype: DtypeName = "bfloat16"
    ids_dtype: IdsName = "int64"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if self.dtype not in FLOATS:
            raise ValueError(f"dtype must be one of {', '.join(FLOATS)}, not {self.dtype}")
        if self.ids_dtype not in ("int32", "int64"):
            raise ValueError(f"ids_dtype must be int32 or int64, not {self.ids_dtype}")


class GpuBuffers:
    """x, ids, weights and out of one call in page-locked memory.

    Calls that follow each other in one stream may share them; calls that overlap may not.
    """

    def __init__(self, sizes: Sizes, device: int = 0) -> None:
        self.sizes = sizes
        self.gpu = _driver(core().Gpu, device)
        rows, pairs = (sizes.max_tokens, sizes.hidden), (sizes.max_tokens, sizes.top_k)
        kinds = (FLOATS[sizes.dtype], np.dtype(sizes.ids_dtype), np.float32, FLOATS[sizes.dtype])
        parts = [
            (np.dtype(kind), shape)
            for kind, shape in zip(kinds, (rows, pairs, pairs, rows), strict=True)
        ]
        space = [-(-kind.itemsize * prod(shape) // _ALIGN) * _ALIGN for kind, shape in parts]
        self._pinned = _driver(core().Pinned, self.gpu, sum(space))
        whole = self._pinned.bytes()
        at = np.cumsum([0, *space])
        self.x, self.ids, self.weights, self.out = (
            whole[start : start + kind.itemsize * prod(shape)].view(kind).reshape(shape)
            for start, (kind, shape) in zip(at, parts, strict=False)
        )


class GpuLink:
    """One layer's experts for the streams of one GPU, a call of it at a time."""

    def __init__(
        self,
        experts: Experts,
        max_tokens: int,
        dtype: DtypeName = "bfloat16",
        *,
        ids_dtype: IdsName = "int64",
        device: int = 0,
        mask: Array | None = None,
        way: Way = "auto",
        buffers: GpuBuffers | None = None,
    ) -> None:
        """mask: [E] bool, True for experts that live elsewhere. `way`: through memory that both
        sides read (`mailbox`, where the GPU can) or through functions that the driver calls
        (`host-function`). `buffers` of these sizes may be shared with other layers' links."""
        sizes = Sizes(max_tokens, experts.hidden, experts.top_k, dtype, ids_dtype)
        if buffers is not None and buffers.sizes != sizes:
            raise ValueError(f"the buffers are for {buffers.sizes}, not {sizes}")
        if buffers is not None and buffers.gpu.device() != device:
            raise ValueError(f"the buffers are of GPU {buffers.gpu.device()}, not {device}")
        self.buffers = buffers or GpuBuffers(sizes, device)
        self.way = _way(self.buffers.gpu, way)
        b = self.buffers
        self._call = experts.host_call(b.x, b.ids, b.weights, out=b.out, mask=mask)
        self._gpu_call = _driver(core().GpuCall, b.gpu, self._call.bound, self.way == "mailbox")

    def enqueue(
        self, stream: int, tokens: int, x: int, ids: int, weights: int, out: int = 0
    ) -> None:
        """The experts of `tokens` tokens, in stream order. Addresses: x [T, H] in dtype, ids [T, K]
        in ids_dtype, weights [T, K] float32 and out [T, H]; 0 where the page-locked array of
        `buffers` is itself written or read. Raises what an earlier call found."""
        self._check(tokens)
        _driver(self._gpu_call.both, stream, tokens, x, ids, weights, out)

    def submit(self, stream: int, tokens: int, x: int, ids: int, weights: int) -> None:
        """The first half of `enqueue`: the stream goes on while the CPU works."""
        self._check(tokens)
        _driver(self._gpu_call.start, stream, tokens, x, ids, weights)

    def sync(self, stream: int, tokens: int, out: int = 0) -> None:
        """The second half: what follows in the stream finds the output."""
        self._check(tokens)
        _driver(self._gpu_call.finish, stream, tokens, out)

    def check(self) -> None:
        """Raise ValueError if a call that has run failed; its output was zeros."""
        self._call.check()

    def _check(self, tokens: int) -> None:
        self.check()
        if not 1 <= tokens <= self.buffers.sizes.max_tokens:
            raise ValueError(f"tokens must be 1 to {self.buffers.sizes.max_tokens}, not {tokens}")


def _way(gpu: Any, wanted: Way) -> Way:
    if wanted not in ("auto", "mailbox", "host-function"):
        raise ValueError(f"way must be auto, mailbox or host-function, not {wanted}")
    if wanted == "mailbox" and not gpu.has_memory_ops():
        raise GpuError(f"GPU {gpu.device()} cannot wait for values in memory: use host-function")
    return "mailbox" if wanted != "host-function" and gpu.has_memory_ops() else "host-function"


def wake() -> None:
    """Calls are near: the CPU thread that answers them is spinning when they come.

    Enqueueing does this by itself. Before a graph is replayed after a pause it saves up to a
    fiftieth of that pause, 20 ms at most."""
    core().wake_mailboxes()
