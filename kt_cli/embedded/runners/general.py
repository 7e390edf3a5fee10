"""Any model of transformers: one sequence at a time, each with a cache of its own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from kt_cli.embedded.cache import Opening, Segment
from kt_cli.embedded.scheduler import Job

_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


class GeneralRunner:
    """A cache is what the model itself hands out after its first pass over a sequence."""

    batched = False

    def __init__(self, model: Any) -> None:
        self._model = model
        config = model.config.get_text_config()
        types = set(getattr(config, "layer_types", None) or ())
        stateful = bool(getattr(model, "_is_stateful", False)) or not types <= _ATTENTION
        # A recurrent state can neither be cut back nor, in transformers, go on with several tokens.
        self.chunked = not stateful
        self.reuse = not stateful
        self.crop = not stateful and types <= {"full_attention"} and not _slides(config, types)
        self._last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._device = next(iter(model.parameters())).device

    def open(self, opening: Opening) -> None:
        for segment in opening.evicted:
            segment.payload = None
        segment, source = opening.segment, opening.source
        if source is not None:
            segment.payload = copy.deepcopy(source.payload)
        _cut(segment.payload, opening.reused)

    def close(self, segment: Segment, kept: bool) -> None:
        if not kept:
            segment.payload = None

    def run(self, jobs: Sequence[Job]) -> torch.Tensor:
        logits = [self._run(job) for job in jobs]
        wanted = [row for job, row in zip(jobs, logits, strict=True) if job.last]
        if not wanted:
            return torch.empty(0, 0)
        return torch.stack(wanted).float().cpu()

    def _run(self, job: Job) -> torch.Tensor:
        ids = torch.tensor([job.tokens], dtype=torch.long, device=self._device)
        options: dict[str, Any] = {"logits_to_keep": 1} if self._last_only else {}
        out = self._model(
            input_ids=ids, past_key_values=job.segment.payload, use_cache=True, **options
        )
        job.segment.payload = out.past_key_values
        row: torch.Tensor = out.logits[0, -1]
        return row


def _slides(config: Any, types: set[str]) -> bool:
    """Whether the cache of a model that names no layer types forgets what left its window."""
    return not types and getattr(config, "sliding_window", None) is not None


def _cut(cache: Any, length: int) -> None:
    if cache is not None and cache.get_seq_length() > length:
        # Negative is the one form that all versions of transformers 5 understand.
        cache.crop(length - cache.get_seq_length())
