"""The gradients of packed experts, and their passes with low-rank matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kt_moe.arrays import Array, plain, uninitialised


class Trainable:
    @property
    def _packed(self) -> Any:
        raise NotImplementedError

    def backward(
        self,
        x: Array,
        ids: Array,
        weights: Array,
        dout: Array,
        *,
        mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """The gradients of x and of weights for dout [T, H], which has x's dtype. The experts are
        frozen, and gate and up are computed anew. Other arguments as of `forward`."""
        x, weights = plain(x), plain(weights)
        dx, dweights = uninitialised(x), uninitialised(weights)
        self._packed.backward(x, ids, weights, mask, plain(dout), dx, dweights, [], [], 1.0)
        return dx, dweights

    def forward_low_rank(
        self,
        x: Array,
        ids: Array,
        weights: Array,
        low_rank: Sequence[Array],
        scale: float,
        *,
        mask: Array | None = None,
    ) -> Array:
        """`forward` with scale·B·A beside each matrix, in bf16 products whatever the format.

        `low_rank`: A [E, rank, in] and B [E, out, rank] of gate, up and down in turn, float32."""
        x = plain(x)
        out, matrices = uninitialised(x), [plain(m) for m in low_rank]
        self._packed.forward_low_rank(x, ids, plain(weights), mask, out, matrices, scale)
        return out

    def backward_low_rank(
        self,
        x: Array,
        ids: Array,
        weights: Array,
        dout: Array,
        low_rank: Sequence[Array],
        scale: float,
        *,
        mask: Array | None = None,
    ) -> tuple[Array, Array, list[Array]]:
        """`backward` of `forward_low_rank`, and the gradients of A and B too."""
        x, weights = plain(x), plain(weights)
        matrices = [plain(m) for m in low_rank]
        dx, dweights = uninitialised(x), uninitialised(weights)
        grads = [uninitialised(m) for m in matrices]
        for grad in grads:
            grad[:] = 0
        self._packed.backward(
            x, ids, weights, mask, plain(dout), dx, dweights, matrices, grads, scale
        )
        return dx, dweights, grads
