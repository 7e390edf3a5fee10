"""Which layers keep a window, a state or every token, from the patterns in configurations.

An unknown pattern is still noticed and reported. Its layers are then planned as ones that keep
every token, which is the most memory that they can take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kt_cli.catalog.config import PERIOD, Config
from kt_cli.documents import shown

FULL, WINDOW, LINEAR = "full_attention", "sliding_attention", "linear_attention"
LETTERS: Mapping[str, str] = {"L": WINDOW, "S": WINDOW, "W": WINDOW, "G": FULL, "F": FULL}
WORDS: Mapping[str, str] = {
    "global": FULL, "full": FULL, "local": WINDOW, "sliding": WINDOW, "swa": WINDOW,
}  # fmt: skip
NAMED = re.compile(
    r"pattern|(layer|attn|attention|block)s?_(block_)?(types?|kinds?|layout)\b|type_list"
    r"|(full|global|local|swa|window|linear)_(attn|attention)?_?(layers|idx|ids|indices|interval)"
    r"|attn_layer_(period|offset)|every_n|layer_group_size"
)
"""Keys that say something of each layer, by their names."""
OTHER = re.compile(
    r"rope|rotary|theta|mlp|moe|expert|ffn|feed_forward|dense|swiglu|sparsity|norm|index|compress"
    r"|dropout|ple_|engram|token|mtp|nextn|hidden_act|loss|vision|audio|quant|max_window_layers"
)
"""What such keys may be about besides attention."""
MANY, FEW = 8, 4
"""A list with an item for each of at least 8 layers and at most 4 different ones is a pattern."""


def pattern_kinds(config: Config, layers: int) -> list[str]:
    """One kind per layer; empty where no pattern is there that is known."""
    for key, read in READERS.items():
        value = config.values.get(key)
        kinds = read(value, layers) if value is not None else []
        if kinds:
            return kinds
    return []


def unread_pattern(config: Config, layers: int) -> str:
    """The first key that looks like a pattern of layers, and its value; empty where there is none.

    Only asked where no known pattern was found.
    """
    for key, value in config.values.items():
        if OTHER.search(key) or value is None or value is False or value == []:
            continue
        if NAMED.search(key) or _one_each(value, layers):
            return f"`{key}` ({shown(value)})"
    return ""


def _one_each(value: Any, layers: int) -> bool:
    if layers < MANY or not isinstance(value, list) or len(value) != layers:
        return False
    plain = all(isinstance(item, (int, str)) or item is None for item in value)
    return plain and 1 < len(set(value)) <= FEW


def _flags(on: str, off: str) -> Callable[[Any, int], list[str]]:
    """A list of 1 and 0, or true and false."""

    def read(value: Any, layers: int) -> list[str]:
        if not isinstance(value, list) or len(value) < layers:
            return []
        known = all(item in (0, 1) for item in value[:layers])
        return [on if item else off for item in value[:layers]] if known else []

    return read


def _names(words: Mapping[str, str]) -> Callable[[Any, int], list[str]]:
    def read(value: Any, layers: int) -> list[str]:
        if not isinstance(value, list) or len(value) < layers:
            return []
        known = all(isinstance(item, str) and item in words for item in value[:layers])
        return [words[item] for item in value[:layers]] if known else []

    return read


def _period(before: str) -> Callable[[Any, int], list[str]]:
    """The last layer of each period keeps every token."""

    def read(value: Any, layers: int) -> list[str]:
        if type(value) is not int or not PERIOD[0] <= value <= PERIOD[1]:
            return []
        return [before if (i + 1) % value else FULL for i in range(layers)]

    return read


def _letters(value: Any, layers: int) -> list[str]:
    """Repeated to the last layer, as EXAONE's `LLLG`."""
    if not isinstance(value, str) or not value or set(value.upper()) - LETTERS.keys():
        return []
    return [LETTERS[value[i % len(value)].upper()] for i in range(layers)]


def _first_of(*readers: Callable[[Any, int], list[str]]) -> Callable[[Any, int], list[str]]:
    return lambda value, layers: next((k for r in readers if (k := r(value, layers))), [])


_WINDOWS = _first_of(_period(WINDOW), _letters, _flags(WINDOW, FULL), _names(WORDS))
READERS: Mapping[str, Callable[[Any, int], list[str]]] = {
    "hybrid_layer_pattern": _WINDOWS,
    "sliding_window_pattern": _WINDOWS,
    "_sliding_window_pattern": _WINDOWS,
    "sliding_window_layout": _flags(WINDOW, FULL),
    "attention_layers": _names(WORDS),
    "attn_type_list": _flags(FULL, LINEAR),
    "layer_group_size": _period(LINEAR),
}
"""MiMo-V2, Gemma 3 and EXAONE, SmallThinker, GPT-Neo, MiniMax-Text-01, Ring."""


def all_windowed(config: Config) -> bool:
    """Families whose code gives every layer the window that the configuration names."""
    return config.model_type in ("mixtral", "mistral", "phimoe", "phi3")
