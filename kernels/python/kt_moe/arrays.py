"""Arrays of callers: numpy arrays or torch CPU tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any


def is_torch(array: Array) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def plain(array: Array) -> Array:
    """DLPack refuses tensors that require a gradient."""
    return array.detach() if is_torch(array) and array.requires_grad else array


def uninitialised(like: Array) -> Array:
    """Of the same type, dtype and shape; raises TypeError for what is no array."""
    if is_torch(like):
        return like.new_empty(like.shape)
    if isinstance(like, np.ndarray):
        return np.empty(like.shape, like.dtype)
    raise TypeError(f"x must be a numpy array or a torch tensor, not {type(like).__name__}")


def add_into(out: Array, other: Array) -> None:
    """out += other; uint16 holds bf16."""
    if out.dtype != np.uint16:
        out += other
        return
    from kt_moe.formats.floats import from_bf16, to_bf16

    out[...] = to_bf16(from_bf16(out) + from_bf16(other))
