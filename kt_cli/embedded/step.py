"""One forward pass over several sequences, as the fast operators see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class KvPool:
    """Keys and values of each layer, [kv_heads, tokens, head_dim]; pages are touched when used."""

    layers: tuple[Layer, ...]

    @classmethod
    def make(
        cls, shapes: Sequence[tuple[int, int, str]], tokens: int, dtype: torch.dtype
    ) -> KvPool:
        """`shapes` is (KV heads, head dim, device) of each layer."""
        return cls(
            tuple(
                (
                    torch.empty(heads, tokens, dim, dtype=dtype, device=device),
                    torch.empty(heads, tokens, dim, dtype=dtype, device=device),
                )
                for heads, dim, device in shapes
            )
        )

    def copy(self, source: int, target: int, count: int) -> None:
        for layer in self.layers:
            for tensor in layer:
                tensor[:, target : target + count] = tensor[:, source : source + count].clone()


@dataclass(slots=True)
class Span:
    """A sequence's rows in the step; its keys after the step are places `start` to `end`."""

    row: int
    rows: int
    start: int
    end: int
    _masks: dict[tuple[int | None, torch.device], torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor | None:
        """[rows, end - start], True where a query sees a key; None when plain causal will do."""
        length = self.end - self.start
        if self.rows == length and (window is None or window >= length):
            return None
        if (window, device) not in self._masks:
            query = torch.arange(length - self.rows, length, device=device)[:, None]
            key = torch.arange(length, device=device)[None]
            seen = key <= query
            if window is not None:
                seen &= key > query - window
            self._masks[window, device] = seen
        return self._masks[window, device]


@dataclass(frozen=True, slots=True)
class Step:
    """`ids` and `positions` [T]; `places` [T] is where each token's keys go in the pool.

    `wanted` are the rows whose hidden states leave the decoder.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    wanted: torch.Tensor
    spans: Sequence[Span]
    pool: KvPool
