"""Solves the sizes of an SGLang plan: context first, then a prefill slot, then GPU experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import floor
from typing import Any

from kt_cli.core.plan import Pool
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.sglang_ledger import gpu_pools, kv_of
from kt_cli.core.units import round_down

SHORTEST_CONTEXT = 4096
SIDE = 8192
"""Tokens planned for each request beside the one of full length."""
STATIC = (
    "attention",
    "dense MLP",
    "shared experts",
    "embedding",
    "router, norms",
    "vision",
    "absorbed MLA",
    "GPU experts",
    "staging",
    "KV cache",
)
"""Lines that `mem-fraction-static` must cover."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the user or the model's preset settled; None is free."""

    context: int | None
    kv_tokens: int | None
    chunk: int | None
    threshold: int | None
    experts: int | None
    fraction: float | None


def fixed(case: SglangCase) -> Fixed:
    get = case.wishes.get
    return Fixed(
        get("ctx_size"),
        get("max_total_tokens"),
        get("chunked_prefill_size"),
        get("gpu_prefill_threshold"),
        get("gpu_experts"),
        get("mem_fraction"),
    )


def solve(case: SglangCase, draft: SglangChoice) -> SglangChoice:
    """The best choice around what is fixed; it may not fit, the ledger says so."""
    on_gpu = all_on_gpu(case, draft)
    if on_gpu:
        return on_gpu
    set_ = fixed(case)
    smallest = set_.chunk or min(case.facts.chunks)
    start = replace(draft, chunk=smallest, experts=min(set_.experts or 0, _count(case)))
    start = replace(start, slot=bool(set_.threshold) and _may_slot(case, start))
    choice = _context(case, start, set_)
    choice = _first(case, _slots(case, choice, set_), choice)
    choice = _tokens(case, choice, set_)
    if set_.chunk is None:
        larger = (replace(choice, chunk=c) for c in case.facts.chunks)
        choice = _first(case, larger, choice)
    return choice if set_.experts is not None else _most_experts(case, choice)


def fits(case: SglangCase, choice: SglangChoice) -> bool:
    return all(pool.left >= 0 and _covered(case, pool) for pool in gpu_pools(case, choice))


def _covered(case: SglangCase, pool: Pool) -> bool:
    """A fraction the user fixed must hold the static part and leave room for the rest."""
    fraction = case.wishes.get("mem_fraction")
    if fraction is None:
        return True
    start = pool.free - case.facts.cuda_context
    static = sum(i.bytes for i in pool.items if i.name in STATIC)
    rest = pool.used - static - case.facts.cuda_context
    return bool(static <= fraction * start and rest <= (1 - fraction) * start)


def fraction(case: SglangCase, choice: SglangChoice) -> float:
    """Share of the memory free before loading that leaves just the dynamic part beside it."""
    shares = []
    for pool in gpu_pools(case, choice):
        start = max(1, pool.free - case.facts.cuda_context)
        dynamic = sum(i.bytes for i in pool.items if i.name not in STATIC) + pool.margin
        shares.append(1 - (dynamic - case.facts.cuda_context) / start)
    return min(0.98, max(0.05, floor(min(shares) * 1000) / 1000))


def target_context(case: SglangCase) -> int:
    limit = case.model.context or case.facts.context
    return min(limit, case.facts.context)


def _count(case: SglangCase) -> int:
    return case.model.experts.count if case.model.experts else 0


def _first(case: SglangCase, options: Iterator[SglangChoice], other: SglangChoice) -> SglangChoice:
    return next((o for o in options if fits(case, o)), other)


def all_on_gpu(case: SglangCase, draft: SglangChoice) -> SglangChoice | None:
    """Every expert on the GPU beside the full context: kt-kernel is not needed."""
    wanted: tuple[Any, ...] = ("kt_method", "weights_path", "gpu_prefill_threshold")
    asked = case.wishes.get("gpu_experts")
    if any(case.wishes.get(name) is not None for name in wanted):
        return None
    if asked is not None and asked < _count(case):
        return None
    set_ = fixed(case)
    context = set_.context or target_context(case)
    whole = replace(draft, method="", nodes=draft.nodes[:1], experts=_count(case), context=context)
    whole = replace(whole, kv_tokens=set_.kv_tokens or context, slot=False)
    chunks = (set_.chunk,) if set_.chunk else case.facts.chunks
    for chunk in chunks:
        choice = replace(whole, chunk=chunk)
        if fits(case, choice):
            return _tokens(case, choice, set_)
    return None


def _context(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    """The longest context of the ladder that fits, else the shortest."""
    if set_.context:
        return replace(choice, context=set_.context, kv_tokens=set_.kv_tokens or set_.context)
    whole = target_context(case)
    if set_.kv_tokens:
        whole = min(whole, set_.kv_tokens)
    ladder = [whole]
    while ladder[-1] // 2 >= SHORTEST_CONTEXT:
        ladder.append(round_down(ladder[-1] // 2, 64))
    sized = (replace(choice, context=c, kv_tokens=set_.kv_tokens or c) for c in ladder)
    last = min(SHORTEST_CONTEXT, ladder[-1])
    lowest = replace(choice, context=last, kv_tokens=set_.kv_tokens or last)
    return _first(case, sized, lowest)


def _may_slot(case: SglangCase, choice: SglangChoice) -> bool:
    method = case.method(choice.method)
    return bool(method and method.layerwise)


def _slots(case: SglangCase, choice: SglangChoice, set_: Fixed) -> Iterator[SglangChoice]:
    if set_.threshold is None and _may_slot(case, choice):
        yield replace(choice, slot=True)


def _tokens(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    """Room for the other requests' shorter conversations, as far as memory goes."""
    if set_.kv_tokens:
        return choice
    wanted = choice.context + (choice.requests - 1) * min(SIDE, choice.context)
    whole = replace(choice, kv_tokens=wanted)
    if fits(case, whole):
        return whole
    per_token = max(1, kv_of(case, choice).token)
    left = min(pool.left for pool in gpu_pools(case, choice))
    more = round_down(max(0, left) // per_token, 64)
    trimmed = replace(choice, kv_tokens=min(wanted, choice.kv_tokens + more))
    return trimmed if fits(case, trimmed) else choice


def _most_experts(case: SglangCase, choice: SglangChoice) -> SglangChoice:
    """The most GPU experts per layer that still fit, by bisection."""
    low, high = 0, _count(case)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(case, replace(choice, experts=middle)):
            low = middle
        else:
            high = middle - 1
    return replace(choice, experts=low)
