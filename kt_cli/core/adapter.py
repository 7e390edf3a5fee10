"""`Adapter`: LoRA weights that are served beside a model, as read from their folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adapter:
    """Sizes in bytes, as stored."""

    name: str
    path: str
    rank: int
    experts: int
    """Of the routed experts' part, which kt-kernel computes on the CPU."""
    others: int
    """Of attention and all else, which SGLang computes on the GPU."""
