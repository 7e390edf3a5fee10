"""Which layers of a GGUF file attend to a window of tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kt_cli.catalog.config import PERIOD, Config

WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
NONE = 1
PERIODS: Mapping[str, int] = {
    "afmoe": 4, "cohere2": 4, "deepseek4": 0, "exaone-moe": 4, "exaone4": 4, "gemma2": 2,
    "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "laguna": 4, "llama4": 4, "olmo2": 4, "plamo3": 8,
    "smallthinker": 4, "llama": NONE, "mistral3": NONE, "phi3": NONE, "phimoe": NONE,
}  # fmt: skip
"""What llama.cpp takes where the file has no pattern (`set_swa_pattern` in its models): one layer
in so many keeps every token, 0 for none. Architectures with 1 have windows that it does not use."""
FULL_FIRST = frozenset({"laguna", "smallthinker"})
"""The layer that keeps every token is the first of each period; elsewhere it is the last."""


@dataclass(frozen=True, slots=True)
class Windows:
    """`layers`: for each whether it has a window, of `size` tokens."""

    layers: tuple[bool, ...]
    size: int
    notes: tuple[str, ...] = ()


def gguf_windows(config: Config) -> Windows:
    """A window as long as the context leaves nothing out, so it is none."""
    count, size = config.number("block_count"), config.number(WINDOW, default=0)
    plain = Windows((False,) * count, 0)
    if not 0 < size < config.number("context_length"):
        return plain
    pattern, kind = config.values.get(PATTERN), config.model_type
    if isinstance(pattern, list) and len(pattern) >= count:
        return Windows(tuple(bool(on) for on in pattern[:count]), size)
    if pattern is None and kind in PERIODS:
        return Windows(_periodic(count, PERIODS[kind], kind), size)
    if isinstance(pattern, int):
        period = config.record.integer(PATTERN, high=PERIOD[1])
        return Windows(_periodic(count, int(period), kind), size)
    why = f"`{PATTERN}` is {'missing' if pattern is None else 'not understood'}"
    note = f"which layers have the window of {size} tokens is not known ({why}): planned as none"
    return Windows(plain.layers, 0, (note,))


def _periodic(count: int, period: int, kind: str) -> tuple[bool, ...]:
    if not period:
        return (True,) * count
    full = 0 if kind in FULL_FIRST else period - 1
    return tuple(index % period != full for index in range(count))
