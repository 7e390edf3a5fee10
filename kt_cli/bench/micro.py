"""The nouns of `kt microbench`, and its arithmetic: bytes, operations, share of the limit.

Pure: it measures nothing. A roofline says how long a call must take at least, from the bytes of
the experts it touches and the operations it does; `share` is that time over the measured one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BITS: Mapping[str, float] = {
    "bf16": 16, "int8": 8, "int4": 4.5, "q8_0": 8.5, "q4_1": 5, "mxfp4": 4.25, "nvfp4": 4.5,
    "iq4_nl": 4.5, "q6_0": 6.5, "q6_1": 7,
}  # fmt: skip
"""Of a weight with its share of a group's scales, in the group that each format has by default."""
FORMATS = tuple(BITS)
USUAL = ("bf16", "int8", "int4")
TOKENS = (1, 4, 32, 512, 2048)
PEERS = ("kt-kernel", "torch")
PEAKS: Mapping[str, tuple[str, ...]] = {
    "bf16": ("fma", "bf16", "amx-bf16"),
    "int8": ("fma", "int8", "amx-int8"),
    "int4": ("fma", "int8", "int4", "amx-int8"),
    "q8_0": ("fma", "int8", "amx-int8"),
    "iq4_nl": ("fma", "int8", "amx-int8"),
    "q6_0": ("fma", "int8", "amx-int8"),
    "q6_1": ("fma", "int8", "amx-int8"),
}
"""Kinds of peak that a format's products may use; the fastest one is its limit. Formats that are
not named are multiplied as int4 is."""

SMALL_ROUTINGS, LARGE_ROUTINGS, FEW_TOKENS = 24, 4, 64


@dataclass(frozen=True, slots=True)
class Shape:
    name: str
    experts: int
    top_k: int
    hidden: int
    intermediate: int

    @property
    def weights(self) -> int:
        """Weights of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def described(self) -> str:
        size = f"{self.experts} experts of {self.hidden} × {self.intermediate}"
        preset = f"{self.name}: " if self.name in SHAPES else ""
        return f"{preset}{size}, {self.top_k} per token"


SHAPES = {
    s.name: s
    for s in (
        Shape("qwen3-30b-a3b", 128, 8, 2048, 768),
        Shape("deepseek-v3", 256, 8, 7168, 2048),
    )
}


def parse_shape(text: str) -> Shape:
    """A preset's name or `E,K,H,I`; raises ValueError."""
    if text in SHAPES:
        return SHAPES[text]
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdigit() for p in parts):
        raise ValueError(f"{text!r} is neither {', '.join(SHAPES)} nor E,K,H,I")
    e, k, h, i = (int(p) for p in parts)
    if min(e, k, h, i) < 1 or k > e:
        raise ValueError(f"{text!r}: all must be at least 1, and K at most E")
    return Shape(text, e, k, h, i)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: `layers` copies of the experts, so that no call finds its weights cached."""

    format: str
    shape: Shape
    tokens: int
    layers: int
    backward: bool = False

    @property
    def flops(self) -> int:
        """The gradient of the input takes gate and up anew, then each matrix turned once."""
        forward = 2 * self.shape.weights * self.tokens * self.shape.top_k
        return forward * 5 // 3 if self.backward else forward


@dataclass(frozen=True, slots=True)
class Limits:
    """GB/s by number of threads; Gop/s of all threads by kind."""

    read_gbs: Mapping[int, float]
    gops: Mapping[str, float]

    def peak(self, format: str) -> float:
        return max(
            (self.gops.get(kind, 0.0) for kind in PEAKS.get(format, PEAKS["int4"])), default=0.0
        )


@dataclass(frozen=True, slots=True)
class Row:
    """`nbytes` are the weights of the experts that a call touches."""

    engine: str
    format: str
    shape: Shape
    tokens: int
    threads: int
    backward: bool
    ms: float
    best_ms: float
    repeats: int
    nbytes: float
    flops: int

    @property
    def gbs(self) -> float:
        return self.nbytes / self.ms / 1e6

    @property
    def tflops(self) -> float:
        return self.flops / self.ms / 1e9

    def least_ms(self, limits: Limits) -> float:
        """The time that bandwidth and peak of this machine allow; 0 when they are unknown."""
        read = max(limits.read_gbs.values(), default=0.0)
        peak = limits.peak("bf16" if self.backward else self.format)
        times = [self.nbytes / read / 1e6 if read else 0, self.flops / peak / 1e6 if peak else 0]
        return max(times)

    def share(self, limits: Limits) -> float:
        return self.least_ms(limits) / self.ms


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not measured and why."""

    engine: str
    format: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    machine: Mapping[str, object]
    limits: Limits
    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...] = field(default=())

    @property
    def beyond_limit(self) -> bool:
        """Whether a call beat a limit by more than measuring twice differs."""
        return any(row.share(self.limits) > 1.15 for row in self.rows)


def fitted(shape: Shape, available: int) -> Shape:
    """The shape with as many experts as fit into 60 % of the memory in bf16, two layers of them."""
    room = int(available * 0.6 / (shape.weights * 2))
    if room >= shape.experts:
        return shape
    count = max(shape.top_k, room)
    return Shape(shape.name, count, shape.top_k, shape.hidden, shape.intermediate)


def layers_beyond_cache(shape: Shape, format: str, cache: int) -> int:
    """Layers whose weights together are more than four times the last-level cache."""
    layer = shape.experts * shape.weights * BITS[format] / 8
    return int(4 * cache // layer) + 1


def routings(shape: Shape, tokens: int, seed: int = 0) -> list[list[int]]:
    """Expert ids [tokens · top_k] of each call in turn, the same for every engine.

    While a call fits in the experts, calls follow each other through a shuffled list of them, so
    that an expert returns as late as possible; larger calls draw every token's experts at random.
    """
    rng = random.Random(seed)
    count = SMALL_ROUTINGS if tokens <= FEW_TOKENS else LARGE_ROUTINGS
    if tokens * shape.top_k <= shape.experts:
        return _in_turn(rng, shape, tokens * shape.top_k, count)
    return [_at_random(rng, shape, tokens) for _ in range(count)]


def _at_random(rng: random.Random, shape: Shape, tokens: int) -> list[int]:
    everyone = range(shape.experts)
    return [e for _ in range(tokens) for e in rng.sample(everyone, shape.top_k)]


def _in_turn(rng: random.Random, shape: Shape, size: int, count: int) -> list[list[int]]:
    out: list[list[int]] = []
    while len(out) < count:
        order = rng.sample(range(shape.experts), shape.experts)
        out += [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    return out[:count]


def touched(calls: Sequence[Sequence[int]]) -> float:
    """Distinct experts per call, on average."""
    return sum(len(set(ids)) for ids in calls) / len(calls)
