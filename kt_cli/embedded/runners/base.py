from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from kt_cli.embedded.cache import Opening, Segment
from kt_cli.embedded.scheduler import Job


class Runner(Protocol):
    """Keeps what segments hold. `chunked`: prompts may run in parts; `crop`: prefixes may be cut.

    `batched`: several jobs gain from running together. Such jobs may be run again, each alone,
    after they failed together.
    """

    batched: bool
    chunked: bool
    crop: bool
    reuse: bool

    def open(self, opening: Opening) -> None:
        """Puts reused tokens in place and forgets what was evicted."""

    def close(self, segment: Segment, kept: bool) -> None: ...

    def run(self, jobs: Sequence[Job]) -> torch.Tensor:
        """Logits [jobs with `last`, vocabulary] in float32 on the CPU, in the order of `jobs`."""
