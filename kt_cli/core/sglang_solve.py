"""Solves the sizes of one split and method: context first, then a prefill slot, then the cache for
other requests, then the chunk, and GPU experts of what is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import floor
from typing import Any

from kt_cli.core.plan import Kind, Pool
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.sglang_draft import host_short, may_hold_experts
from kt_cli.core.sglang_kv import page
from kt_cli.core.sglang_ledger import gpu_pools
from kt_cli.core.units import round_down, round_up

SHORTEST_CONTEXT = 4096
SIDE = 8192
"""Tokens planned for each request beside the one of full length."""
STEP = 256
"""Tokens that sizes of the cache are multiples of."""
STATIC = (
    *(Kind.WEIGHTS, Kind.EMBEDDING, Kind.VISION, Kind.ABSORBED, Kind.ADAPTER),
    *(Kind.EXPERTS, Kind.STAGING, Kind.CACHE, Kind.STATES),
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
    get, none = case.wishes.get, 0 if case.tuned_experts else None
    experts, threshold = get("gpu_experts"), get("gpu_prefill_threshold")
    return Fixed(
        get("ctx_size"),
        get("max_total_tokens"),
        get("chunked_prefill_size"),
        none if threshold is None else threshold,
        none if experts is None else experts,
        get("mem_fraction"),
    )


def solve(case: SglangCase, draft: SglangChoice) -> SglangChoice:
    """The best sizes around what is fixed; they may not fit, the ledger says so."""
    set_ = fixed(case)
    choice = replace(draft, experts=min(set_.experts or 0, _count(case)))
    choice = replace(choice, slot=bool(set_.threshold) and _may_slot(case, choice))
    choice = _context(case, choice, set_)
    choice = _slot(case, choice, set_)
    choice = _chunk(case, _tokens(case, choice, set_), set_)
    return choice if set_.experts is not None else most_experts(case, choice)


def on_gpu(case: SglangCase, draft: SglangChoice, *, ladder: bool) -> SglangChoice | None:
    """Every expert on the GPU, so that kt-kernel is not needed; None where that does not fit.

    Beside the full context, or with `ladder` beside the longest that fits.
    """
    wanted: tuple[Any, ...] = ("kt_method", "weights_path", "gpu_prefill_threshold")
    if case.tuned_experts or any(case.wishes.get(name) is not None for name in wanted):
        return None
    set_ = fixed(case)
    if set_.experts is not None and set_.experts < _count(case):
        return None
    choice = _context(case, _without_kt(case, draft), set_)
    if not ladder and choice.context < (set_.context or target_context(case)):
        return None
    if not fits(case, choice) or host_short(case, choice):
        return None
    return _chunk(case, _tokens(case, choice, set_), set_)


def whole(case: SglangCase, draft: SglangChoice) -> SglangChoice:
    """Every expert on the GPU in the shortest context, whether it fits or not."""
    set_ = fixed(case)
    experts = _count(case) if set_.experts is None else min(set_.experts, _count(case))
    choice = replace(_without_kt(case, draft), experts=experts)
    return _context(case, choice, set_)


def _without_kt(case: SglangCase, draft: SglangChoice) -> SglangChoice:
    return replace(draft, method="", nodes=draft.nodes[:1], experts=_count(case))


# What fits


def fits(case: SglangCase, choice: SglangChoice) -> bool:
    return all(pool.left >= 0 and _covered(case, pool) for pool in gpu_pools(case, choice))


def _covered(case: SglangCase, pool: Pool) -> bool:
    """A fraction the user fixed must hold the static part and leave room for the rest."""
    fraction = case.wishes.get("mem_fraction")
    if fraction is None:
        return True
    start = pool.free - case.facts.cuda_context
    static = sum(i.bytes for i in pool.items if i.kind in STATIC)
    rest = pool.used - static - case.facts.cuda_context
    return bool(static <= fraction * start and rest <= (1 - fraction) * start)


def _grown(case: SglangCase, choice: SglangChoice, larger: Iterable[SglangChoice]) -> SglangChoice:
    """The first that fits on the GPU and asks the host for nothing that is not there."""
    limit = host_short(case, choice)
    held = (c for c in larger if fits(case, c) and host_short(case, c) <= limit)
    return next(held, choice)


def fraction(case: SglangCase, choice: SglangChoice) -> float:
    """Share of the memory free before loading that leaves just the dynamic part beside it."""
    shares = []
    for pool in gpu_pools(case, choice):
        start = max(1, pool.free - case.facts.cuda_context)
        dynamic = sum(i.bytes for i in pool.items if i.kind not in STATIC) + pool.margin
        shares.append(1 - (dynamic - case.facts.cuda_context) / start)
    return min(0.98, max(0.05, floor(min(shares) * 1000) / 1000))


# One size after the other


def target_context(case: SglangCase) -> int:
    limit = case.model.context or case.facts.context
    return min(limit, case.facts.context)


def _count(case: SglangCase) -> int:
    return case.model.experts.count if case.model.experts else 0


def _context(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    """The longest context of the ladder that fits, else the shortest."""
    if set_.context:
        held = set_.kv_tokens or round_up(set_.context, page(case))
        return replace(choice, context=set_.context, kv_tokens=held)
    whole = target_context(case)
    if set_.kv_tokens:
        whole = min(whole, set_.kv_tokens)
    sized = [
        replace(choice, context=c, kv_tokens=set_.kv_tokens or round_up(c, page(case)))
        for c in _ladder(whole)
    ]
    return next((c for c in sized if fits(case, c)), sized[-1])


def _ladder(longest: int) -> Iterator[int]:
    context = longest
    while context > SHORTEST_CONTEXT:
        yield context
        context = max(SHORTEST_CONTEXT, round_down(context // 2, STEP))
    yield context


def _may_slot(case: SglangCase, choice: SglangChoice) -> bool:
    method = case.method(choice.method)
    return bool(method and method.layerwise and may_hold_experts(case, choice))


def _slot(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    if set_.threshold is not None or not _may_slot(case, choice):
        return choice
    return _grown(case, choice, [replace(choice, slot=True)])


def _chunk(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    if set_.chunk is not None:
        return choice
    return _grown(case, choice, (replace(choice, chunk=c) for c in case.facts.chunks))


def _tokens(case: SglangCase, choice: SglangChoice, set_: Fixed) -> SglangChoice:
    """Room for the other requests' shorter conversations, as far as memory goes."""
    if set_.kv_tokens:
        return choice
    wanted = choice.context + (choice.requests - 1) * min(SIDE, choice.context)
    whole = replace(choice, kv_tokens=wanted)
    if fits(case, whole):
        return whole

    def held(steps: int) -> SglangChoice:
        return replace(choice, kv_tokens=choice.kv_tokens + steps * STEP)

    most = (wanted - choice.kv_tokens) // STEP
    return held(_most(most, lambda steps: fits(case, held(steps))))


def most_experts(case: SglangCase, choice: SglangChoice) -> SglangChoice:
    """The most GPU experts per layer that still fit."""
    if not may_hold_experts(case, choice):
        return replace(choice, experts=0)
    count = _most(_count(case), lambda n: fits(case, replace(choice, experts=n)))
    return replace(choice, experts=count)


def _most(high: int, fit: Callable[[int], bool]) -> int:
    """The largest number up to `high` that fits, by bisection; 0 where none does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fit(middle):
            low = middle
        else:
            high = middle - 1
    return low
