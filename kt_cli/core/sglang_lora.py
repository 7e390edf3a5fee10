"""What an adapter on the experts rules out under SGLang with kt-kernel."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.plan import Fix, Problem
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.sglang_draft import lora_obstacle


def lora_problems(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    if case.adapter is None or not case.tuned_experts:
        return
    if not case.adapter.others:
        why = "SGLang takes experts and attention from one folder"
        yield Problem(f"the adapter {case.adapter.name} has no tensors but the experts'", why)
    method = case.method(choice.method)
    reason = lora_obstacle(case, method) if method else ""
    if reason:
        yield Problem(f"{choice.method} cannot serve the adapter", reason)
    if choice.experts:
        why = "an adapter on the experts works on the CPU only"
        fix = Fix("no GPU experts", "possible", "--gpu-experts 0")
        yield Problem(f"{choice.experts} GPU experts beside an adapter", why, fixes=(fix,))
    if choice.slot:
        fix = Fix("no layer-wise prefill", "possible", "--kt-gpu-prefill-threshold 0")
        why = "the GPU would compute experts without their adapter"
        yield Problem("layer-wise prefill beside an adapter", why, fixes=(fix,))
    if choice.requests < 2:
        fix = Fix("2 requests", "possible", "--max-running-requests 2")
        yield Problem("one request at once beside an adapter", "SGLang wants two", fixes=(fix,))
