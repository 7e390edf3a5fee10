"""What an engine needs and can do, as data; `kt_cli.engines.facts` reads `presets/engines`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EmbeddedFacts:
    """The embedded engine. Sizes in bytes; each number's source stands in the preset."""

    base_bytes: int
    """Resident memory of Python, torch, transformers and the server before any weight."""
    chunk: int
    """Tokens of a prompt computed at once."""
    requests: int
    context: int
    """Longest context unless asked for."""
    margin_bytes: int
    latent_kv: bool
    """True when MLA's cache holds the latent, False when it holds full heads."""
    methods: Mapping[str, float]
    """Expert format → bytes per weight, the scales included; the first is the default."""
    decode_efficiency: tuple[float, float]
    """Share of memory bandwidth reached, low and high."""
    prefill_efficiency: tuple[float, float]
    """Share of peak compute reached, low and high."""
    gpu_context_bytes: int = 0
    typical: int = 0
    """Tokens of context that speed is predicted at."""
    notes: Mapping[str, str] = field(default_factory=dict)
