"""All sequences of a step in one pass over a shared KV pool, for the fast families."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from kt_cli.embedded.cache import Opening, Segment
from kt_cli.embedded.operators.decoder import Decoder
from kt_cli.embedded.scheduler import Job
from kt_cli.embedded.step import KvPool, Span, Step


class PooledRunner:
    batched = True
    chunked = True
    crop = True
    reuse = True

    def __init__(self, model: Any, tokens: int, dtype: torch.dtype) -> None:
        decoder: Decoder = model.model
        self._decoder = decoder
        self._head = model.lm_head
        shapes = [(a.kv_heads, a.head_dim, a.device) for a in decoder.attention()]
        self._pool = KvPool.make(shapes, tokens, dtype)
        self._device = decoder.device

    @staticmethod
    def fits(model: Any) -> bool:
        return isinstance(getattr(model, "model", None), Decoder)

    def open(self, opening: Opening) -> None:
        if opening.source is not None:
            self._pool.copy(opening.source.start, opening.segment.start, opening.reused)

    def close(self, segment: Segment, kept: bool) -> None:
        return None

    def run(self, jobs: Sequence[Job]) -> torch.Tensor:
        hidden = self._decoder(self._step(jobs))
        return self._head(hidden).float().cpu()

    def _step(self, jobs: Sequence[Job]) -> Step:
        spans, positions, places, wanted, row = [], [], [], [], 0
        for job in jobs:
            stored, count, start = len(job.segment.tokens), len(job.tokens), job.segment.start
            spans.append(Span(row, count, start, start + stored + count))
            positions.append(range(stored, stored + count))
            places.append(range(start + stored, start + stored + count))
            row += count
            if job.last:
                wanted.append(row - 1)
        ids = chain.from_iterable(job.tokens for job in jobs)
        numbers = [*ids, *chain(*positions), *chain(*places), *wanted]
        sizes = [row, row, row, len(wanted)]
        # One copy to the GPU instead of four, each of which would wait for it.
        there = torch.tensor(numbers, dtype=torch.long).to(self._device)
        tokens, at, into, last = there.split(sizes)
        return Step(tokens, at, into, last, spans, self._pool)
