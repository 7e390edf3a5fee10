"""Arrays of callers: numpy arrays or torch CPU tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any


def _is_torch(array: Array) -> bool:
    return type(array).__module__.partition(".")[0] == "torch"


def plain(array: Array) -> Array:
    """DLPack refuses tensors that require a gradient."""
    return array.detach() if _is_torch(array) and array.requires_grad else array


def uninitialised(like: Array) -> Array:
    """Of the same type, dtype and shape; raises TypeError for what is no array."""
    if _is_torch(like):
        return like.new_empty(like.shape)
    if isinstance(like, np.ndarray):
        return np.empty(like.shape, like.dtype)
    raise TypeError(f"x must be a numpy array or a torch tensor, not {type(like).__name__}")
