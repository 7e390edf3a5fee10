"""A `Stock`: all tensors of one kind and shape that a model holds, with their number.

So a model of 700 billion parameters is some fifty stocks. Names are those of the usual checkpoints;
lists of exceptions to a quantisation refer to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from kt_cli.core.model import TensorClass


@dataclass(frozen=True, slots=True)
class Stock:
    kind: TensorClass
    name: str
    shape: tuple[int, ...]
    times: int
    matrix: bool = True
    """A linear layer's weight, which a quantisation may pack."""
    width: int = 0
    """Bytes per value where it is not the model's own."""

    @property
    def parameters(self) -> int:
        return self.times * prod(self.shape)
