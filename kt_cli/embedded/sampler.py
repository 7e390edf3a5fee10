"""From logits to the next token, for all requests of a step at once.

Order: bias, penalties, temperature, top-k, top-p, min-p. Each request draws from a generator of its
own, so what it gets does not depend on who else is in the batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from kt_cli.embedded.api import Sampling

_FEW = 1024
"""Candidates looked at before sorting a whole vocabulary; nearly always enough for top-p."""

LEAST_TEMPERATURE = 1e-30
"""Far below what tells two float32 logits apart, and far above numbers that count as 0."""

_Way = Callable[[torch.Tensor, torch.Tensor, Sequence[Sampling]], torch.Tensor]


class SamplerState:
    """What sampling for one request needs to remember."""

    def __init__(self, sampling: Sampling, prompt: Iterable[int], vocabulary: int) -> None:
        self.sampling = sampling
        self._random = random.Random(sampling.seed)
        self.bias = _bias(sampling, vocabulary)
        self.seen: torch.Tensor | None = None
        self.counts: torch.Tensor | None = None
        if sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(vocabulary, dtype=torch.bool)
            self.seen[torch.tensor(list(prompt), dtype=torch.long)] = True
        if sampling.presence_penalty or sampling.frequency_penalty:
            self.counts = torch.zeros(vocabulary)

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature <= 0

    def draw(self) -> float:
        return self._random.random()

    def add(self, token: int) -> None:
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1

    def adjust(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias and penalties, on logits [vocabulary]; the given tensor stays as it is."""
        if self.bias is not None:
            logits = logits + self.bias
        if self.seen is not None:
            penalty = self.sampling.repetition_penalty
            scaled = torch.where(logits > 0, logits / penalty, logits * penalty)
            logits = torch.where(self.seen, scaled, logits)
        if self.counts is not None:
            once = (self.counts > 0) * self.sampling.presence_penalty
            logits = logits - self.counts * self.sampling.frequency_penalty - once
        return logits


def _bias(sampling: Sampling, vocabulary: int) -> torch.Tensor | None:
    if not sampling.logit_bias:
        return None
    tokens, values = zip(*sampling.logit_bias, strict=True)
    return torch.zeros(vocabulary).index_add_(0, torch.tensor(tokens), torch.tensor(values))


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of the model's own distribution, before bias, penalties and temperature."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def sample(logits: torch.Tensor, states: Sequence[SamplerState]) -> list[int]:
    """One token for each row of logits [n, vocabulary] in float32."""
    adjusted = logits
    if any(s.bias is not None or s.seen is not None or s.counts is not None for s in states):
        adjusted = torch.stack([s.adjust(row) for s, row in zip(states, logits, strict=True)])
    tokens = adjusted.argmax(dim=-1)
    drawing = [number for number, state in enumerate(states) if not state.greedy]
    if drawing:
        some = torch.tensor(drawing)
        tokens[some] = _draw(adjusted[some], [states[number] for number in drawing])
    chosen: list[int] = tokens.tolist()
    for state, token in zip(states, chosen, strict=True):
        state.add(token)
    return chosen


def logprobs(logits: torch.Tensor, token: int, top: int) -> Logprobs:
    """Of one row of logits [vocabulary]."""
    total = logits.logsumexp(dim=-1)
    best = logits.topk(min(top, len(logits)))
    values = (best.values - total).tolist()
    pairs = tuple(zip(best.indices.tolist(), values, strict=True))
    return Logprobs(float(logits[token] - total), pairs)


def _draw(logits: torch.Tensor, states: Sequence[SamplerState]) -> torch.Tensor:
    given = [state.sampling for state in states]
    temperature = torch.tensor([s.temperature for s in given], dtype=torch.float64)
    uniform = torch.tensor([state.draw() for state in states], dtype=torch.float64)[:, None]
    temperature = temperature.clamp(min=LEAST_TEMPERATURE)[:, None]
    logits = logits.double()
    # The best one becomes 0 first, which no temperature, however small, takes to infinity.
    probabilities = ((logits - logits.max(dim=-1, keepdim=True).values) / temperature).softmax(-1)
    tokens = torch.empty(len(given), dtype=torch.long)
    for way, rows in _ways(probabilities, given).items():
        some = torch.tensor(rows)
        tokens[some] = way(probabilities[some], uniform[some], [given[row] for row in rows])
    return tokens


def _ways(probabilities: torch.Tensor, given: Sequence[Sampling]) -> dict[_Way, list[int]]:
    """Rows by the way they are drawn, which depends on each row alone: so does its token."""
    ways: dict[_Way, list[int]] = {}
    few = min(_FEW, probabilities.shape[-1])
    for row, sampling in enumerate(given):
        if sampling.top_k <= 0 and sampling.top_p >= 1:
            way = _from_all
        elif _enough(sampling, probabilities[row], few):
            way = _from_few
        else:
            way = _from_sorted
        ways.setdefault(way, []).append(row)
    return ways


def _enough(sampling: Sampling, probabilities: torch.Tensor, few: int) -> bool:
    if sampling.top_k > 0:
        return sampling.top_k <= few
    return sampling.top_p < float(probabilities.topk(few).values.sum())


def _from_all(p: torch.Tensor, uniform: torch.Tensor, given: Sequence[Sampling]) -> torch.Tensor:
    best = p.max(dim=-1, keepdim=True).values
    return _pick(p.masked_fill(p < _min_p(given) * best, 0.0), uniform)


def _from_few(p: torch.Tensor, uniform: torch.Tensor, given: Sequence[Sampling]) -> torch.Tensor:
    ranked, order = p.topk(min(_FEW, p.shape[-1]), dim=-1)
    return _from_ranked(ranked, order, uniform, given)


def _from_sorted(p: torch.Tensor, uniform: torch.Tensor, given: Sequence[Sampling]) -> torch.Tensor:
    ranked, order = p.sort(dim=-1, descending=True, stable=True)
    return _from_ranked(ranked, order, uniform, given)


def _from_ranked(
    ranked: torch.Tensor, order: torch.Tensor, uniform: torch.Tensor, given: Sequence[Sampling]
) -> torch.Tensor:
    kept = _truncate(ranked, given)
    kept = kept.masked_fill(kept < _min_p(given) * kept[:, :1], 0.0)
    return order.gather(1, _pick(kept, uniform)[:, None])[:, 0]


def _min_p(given: Sequence[Sampling]) -> torch.Tensor:
    return torch.tensor([s.min_p for s in given], dtype=torch.float64)[:, None]


def _truncate(ranked: torch.Tensor, given: Sequence[Sampling]) -> torch.Tensor:
    """Zero for what top-k and then top-p (of what top-k left) cut off; the first always stays."""
    size = ranked.shape[-1]
    top_k = torch.tensor([s.top_k if s.top_k > 0 else size for s in given])[:, None]
    kept = ranked.masked_fill(torch.arange(size)[None] >= top_k, 0.0)
    limited = torch.tensor([s.top_k > 0 for s in given])[:, None]
    mass = torch.where(limited, kept.sum(dim=-1, keepdim=True), 1.0)
    top_p = torch.tensor([s.top_p for s in given], dtype=torch.float64)[:, None] * mass
    before = kept.cumsum(dim=-1) - kept
    cut = (before >= top_p) & (torch.arange(size)[None] > 0) & (top_p < mass)
    return kept.masked_fill(cut, 0.0)


def _pick(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first place where the running sum passes the drawn share of the whole."""
    running = weights.cumsum(dim=-1)
    places = torch.searchsorted(running, uniform * running[:, -1:], right=True)[:, 0]
    last = weights.shape[-1] - 1 - (weights.flip(-1) > 0).long().argmax(dim=-1)
    return torch.minimum(places, last)
