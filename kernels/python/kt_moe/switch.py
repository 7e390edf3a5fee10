"""Finds the number of tokens per used expert from which tiles are faster than vectors.

Tiles multiply 16 tokens in the time of one, but need preparation, which pays only with enough
tokens. How many depends on format, sizes, threads and memory speed, so both are timed on a layer's
own weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kt_moe.experts import Experts

TOKENS = (2, 4, 8, 16, 32)
NEVER = 64
"""Where tiles win at none of them: they are for prompts that are longer still."""
_WIN = 0.97
_ALIKE = 1.1
_LEAST_ROUNDS, _ENOUGH_ROUNDS, _MOST_ROUNDS = 2, 3, 8
_SECONDS = 1.0
_ROWS = 8 * 128  # of gate, and of up, for each thread: eight units, so that none waits long
_MOST_BYTES = 1 << 31

Ids: TypeAlias = npt.NDArray[np.int32]
Run: TypeAlias = Callable[[int, bool], float]
"""Seconds that a call with so many tokens for each of its experts takes, True: on tiles."""


class Timed(NamedTuple):
    tokens: int  # for each expert
    vectors: list[float]  # seconds, one call a round
    tiles: list[float]

    def ratio(self) -> float:
        """At most 1 where tiles win clearly."""
        return min(self.tiles) / (_WIN * min(self.vectors))

    def settled(self) -> bool:
        """Whether the second shortest calls are like the shortest, or give the same answer."""
        (v, second_v), (t, second_t) = (sorted(times)[:2] for times in self[1:])
        if second_v <= _ALIKE * v and second_t <= _ALIKE * t:
            return True
        return t > _WIN * second_v or second_t <= _WIN * v


def crossover(points: Sequence[Timed]) -> int | None:
    """Tokens from which tiles win clearly at every point; None if the machine was too busy to say.

    Between two points the logarithms of times and tokens are taken as straight lines."""
    if not points or not all(point.settled() for point in points):
        return None
    ratios = [point.ratio() for point in points]
    first = next((n for n in range(len(ratios), 0, -1) if ratios[n - 1] > 1), 0)
    if first in (0, len(points)):
        return NEVER if first else points[0].tokens
    lose, win = math.log(ratios[first - 1]), math.log(ratios[first])
    low, high = points[first - 1].tokens, points[first].tokens
    return min(high, math.ceil(low * math.exp(math.log(high / low) * lose / (lose - win))))


def measure(run: Run, clock: Callable[[], float] = time.perf_counter) -> list[Timed]:
    """Rounds of all points and both ways in turn, until they settle the question."""
    points = [Timed(tokens, [], []) for tokens in TOKENS]
    end = clock() + _SECONDS
    for done in range(1, _MOST_ROUNDS + 1):
        for point in points:
            point.vectors.append(run(point.tokens, False))
            point.tiles.append(run(point.tokens, True))
        if done >= _LEAST_ROUNDS and clock() > end:
            break
        if done >= _ENOUGH_ROUNDS and all(point.settled() for point in points):
            break
    return points


def times(experts: Experts, threads: int) -> list[Timed]:
    """Of a layer's own weights; nothing if it has none yet."""
    groups = _groups(experts, threads)
    return measure(_Probe(experts, groups)) if groups else []


class _Probe:
    """Calls of a layer with random tokens. Each takes the next few experts, so that their weights
    come from memory, as they do in a model of many layers."""

    def __init__(self, experts: Experts, groups: list[Ids]) -> None:
        self._packed = experts._packed
        self._top_k = experts.top_k
        self._groups = groups
        self._turn = 0
        tokens = TOKENS[-1] * -(-len(groups[0]) // self._top_k)
        values = np.random.default_rng(0).standard_normal((tokens, experts.hidden), np.float32)
        self._x = (values.view(np.uint32) >> 16).astype(np.uint16)
        self._out = np.empty_like(self._x)
        for _ in self._groups:
            self(TOKENS[0], False)
        self(TOKENS[-1], False)
        self(TOKENS[-1], True)

    def __call__(self, tokens: int, tiles: bool) -> float:
        group = self._groups[self._turn % len(self._groups)]
        self._turn += 1
        ids = _ids(group, tokens, self._top_k)
        x, out = self._x[: len(ids)], self._out[: len(ids)]
        weights = np.full(ids.shape, 1 / self._top_k, np.float32)
        return float(self._packed.timed(x, ids, weights, out, tiles))


def _ids(group: Ids, tokens: int, top_k: int) -> Ids:
    """[T, top_k] with each expert of the group in `tokens` of the rows."""
    rows = -(-len(group) // top_k)
    padded: Ids = np.full((rows, top_k), -1, np.int32)
    padded.flat[: len(group)] = group
    return np.tile(padded, (tokens, 1))


def _groups(experts: Experts, threads: int) -> list[Ids]:
    """Disjoint groups of experts, each enough work for the threads."""
    filled = _filled(experts._packed.data(), experts.num_experts)
    most = _MOST_BYTES // (experts.nbytes // experts.num_experts)
    filled = filled[: max(2, most)]
    enough = -(-_ROWS * threads // experts.intermediate)
    size = max(1, min(enough, len(filled) // 2))
    return [filled[n : n + size] for n in range(0, len(filled) - size + 1, size)]


def _filled(data: npt.NDArray[np.uint8], count: int) -> Ids:
    """Experts with weights: the others' memory may be one page of zeros, which a cache holds."""
    heads = data.reshape(count, -1)[:, :4096]
    return np.flatnonzero(heads.any(axis=1)).astype(np.int32)
