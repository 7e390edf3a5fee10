"""What measured loads teach later plans on the same machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kt_cli.core.facts import EmbeddedFacts, SglangFacts
from kt_cli.core.history import Outcome

ENOUGH = 3
"""Measurements before a prediction follows them."""


def calibrated(facts: EmbeddedFacts, outcomes: Sequence[Outcome]) -> EmbeddedFacts:
    """The engine's facts after what was measured on this machine; unchanged by few loads.

    Beside a GPU only those that have served count: CUDA loads kernels when they are first used.
    """
    ours = [o for o in outcomes if o.engine == "embedded"]
    beside = [o for o in ours if o.expected_vram is not None and o.kv_used]
    facts = _base(facts, [o for o in ours if o.expected_vram is None])
    facts = _cuda(facts, beside)
    share = _share(ours)
    if share is not None:
        facts = replace(facts, decode_efficiency=(share * 0.85, share * 1.15))
    return facts


def _base(facts: EmbeddedFacts, alone: Sequence[Outcome]) -> EmbeddedFacts:
    if len(alone) < ENOUGH:
        return facts
    error = int(median([o.off(facts.base_bytes) for o in alone]))
    return replace(facts, base_bytes=max(0, facts.base_bytes + error))


def _cuda(facts: EmbeddedFacts, beside: Sequence[Outcome]) -> EmbeddedFacts:
    host, context = facts.gpu_host_bytes, facts.gpu_context_bytes
    if len(beside) >= ENOUGH:
        host += int(median([o.off(facts.base_bytes + host) for o in beside]))
    errors = [e for o in beside if (e := o.off_vram(context)) is not None]
    if len(errors) >= ENOUGH:
        context += int(median(errors))
    return replace(facts, gpu_host_bytes=max(0, host), gpu_context_bytes=max(0, context))


def calibrated_sglang(facts: SglangFacts, outcomes: Sequence[Outcome]) -> SglangFacts:
    """The same for SGLang: what its processes and CUDA take, and the pace of decoding."""
    ours = [o for o in outcomes if o.engine == "sglang"]
    host, context = facts.host_base, facts.cuda_context
    if len(ours) >= ENOUGH:
        host += int(median([o.off(host) for o in ours]))
    errors = [e for o in ours if (e := o.off_vram(context)) is not None]
    if len(errors) >= ENOUGH:
        context += int(median(errors))
    return replace(facts, host_base=max(0, host), cuda_context=max(0, context), pace=_share(ours))


def _share(outcomes: Sequence[Outcome]) -> float | None:
    """Of what decode was measured against, once enough servers have answered a request alone."""
    shares = [o.decode / o.decode_limit for o in outcomes if o.decode and o.decode_limit]
    return median(shares) if len(shares) >= ENOUGH else None


def median(values: Sequence[float]) -> float:
    """Of a sequence that is not empty."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2
