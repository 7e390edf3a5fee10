"""Deferred experts: token-expert pairs that are left for the next call.

A layer answers with the experts that matter most and leaves the rest to run in the background,
while the caller computes what comes next; their part is added to the output of a later layer. That
changes results a little and hides the time of the deferred experts.

    now, later = split_deferred(ids, weights, keep=6)
    y = experts.forward(x, now, weights)
    if before is not None:
        before.add_to(y)
    before = experts.defer(x, later, weights)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kt_moe.arrays import Array, add_into, is_torch, plain, uninitialised
from kt_moe.background import wait_for_all


def split_deferred(ids: Array, scores: Array, keep: int) -> tuple[Array, Array]:
    """Ids [T, K] for now and for later, each with -1 where the other one has the expert.

    The `keep` best-scored experts of every token are for now, and so is an expert everywhere once
    any token needs it now, for its weights are read then anyway.
    """
    chosen, ranks = np.asarray(plain(ids)), np.asarray(plain(scores))
    if chosen.ndim != 2 or chosen.shape != ranks.shape:
        raise ValueError(f"ids {list(chosen.shape)} and scores {list(ranks.shape)} are not [T, K]")
    if keep < 0:
        raise ValueError(f"keep must not be negative, not {keep}")
    best = np.argsort(-ranks, axis=1, kind="stable")[:, :keep]
    needed = np.isin(chosen, np.take_along_axis(chosen, best, axis=1))
    parts = (np.where(needed, chosen, -1), np.where(needed, -1, chosen))
    now, later = (_like(ids, part.astype(chosen.dtype)) for part in parts)
    return now, later


class Deferred:
    """Pairs at work in the background. Nobody may write to their arrays until `add_to`."""

    def __init__(
        self, packed: Any, x: Array, ids: Array, weights: Array, mask: Array | None
    ) -> None:
        x, ids, weights = plain(x), plain(ids), plain(weights)
        self._out = uninitialised(x)
        self._added = False
        self._pending: list[int] = [packed.submit(x, ids, weights, mask, self._out)]

    def add_to(self, out: Array) -> None:
        """Waits, then adds to a layer's output of the same shape and dtype; once."""
        if self._added:
            raise RuntimeError("these experts were added already")
        if out.shape != self._out.shape or out.dtype != self._out.dtype:
            mine = f"{list(self._out.shape)} {self._out.dtype}"
            raise ValueError(f"deferred experts are {mine}, not {list(out.shape)} {out.dtype}")
        self._added = True
        for error in wait_for_all(self._pending):
            raise error
        add_into(out, self._out)

    def __del__(self) -> None:
        wait_for_all(getattr(self, "_pending", []))


def _like(array: Array, values: Any) -> Array:
    if not is_torch(array):
        return values
    import torch

    return torch.from_numpy(values)
