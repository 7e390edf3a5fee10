"""The best of all ways to place a model with SGLang: GPUs, NUMA nodes, expert method, sizes.

`worth` is a total order, and each way is sized by itself. So more hardware never gives a worse
plan: what was possible stays possible, also by leaving some of it unused, and only something of
more worth takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kt_cli.core.methods import nvidia
from kt_cli.core.sglang_choice import SglangCase, SglangChoice, card_sets, tp_values
from kt_cli.core.sglang_draft import converted, draft, gpu_obstacle_of, host_short, methods
from kt_cli.core.sglang_ledger import gpu_pools
from kt_cli.core.sglang_solve import fits, on_gpu, solve, whole
from kt_cli.core.sglang_speed import decode_rate


def best(case: SglangCase) -> SglangChoice:
    """All on the GPUs where that fits, else with experts on the CPU, else the least short."""
    if not nvidia(case.machine):
        return draft(case, methods(case, ())[0], ())
    sets = list(_sets(case))
    held = [choice for choice in _all_on_gpu(case, sets) if choice]
    if held:
        return _best(case, held)
    return _best(case, _shared(case, sets))


def _sets(case: SglangCase) -> Iterator[tuple[int, ...]]:
    """GPUs to split the model over; the number asked for even where it is impossible."""
    asked, have = case.wishes.get("tp"), len(nvidia(case.machine))
    for count in [asked] if asked else tp_values(case) or [1]:
        some = card_sets(case.machine, min(count, have))
        yield from some if count <= have else [tuple(range(count))]


def _all_on_gpu(case: SglangCase, sets: Iterable[tuple[int, ...]]) -> Iterator[SglangChoice | None]:
    for gpus in sets:
        way = draft(case, "", gpus)
        if not gpu_obstacle_of(case, case.cards(way)):
            yield on_gpu(case, way, ladder=methods(case, case.cards(way)) == [""])


def _shared(case: SglangCase, sets: Iterable[tuple[int, ...]]) -> Iterator[SglangChoice]:
    """With experts on the CPU; where no method computes them there, all of them on the GPUs."""
    for gpus in sets:
        bare = draft(case, "", gpus)
        for name in methods(case, case.cards(bare)):
            experts = case.model.experts and not name
            yield whole(case, bare) if experts else solve(case, draft(case, name, gpus))


def _best(case: SglangCase, choices: Iterable[SglangChoice]) -> SglangChoice:
    """The first among equals."""
    return max(choices, key=lambda choice: worth(case, choice))


def worth(case: SglangCase, choice: SglangChoice) -> tuple[Any, ...]:
    """What a better choice has more of, most important first."""
    return (
        -short(case, choice),
        choice.context,
        not converted(case, choice.method),
        choice.slot,
        choice.kv_tokens,
        choice.chunk,
        decode_rate(case, choice),
        choice.experts,
        -choice.tp,
    )


def short(case: SglangCase, choice: SglangChoice) -> int:
    """Bytes missing on the GPUs and on an idle host; 0 for what fits."""
    gpus = sum(max(0, -pool.left) for pool in gpu_pools(case, choice))
    return gpus + host_short(case, choice) + (not gpus and not fits(case, choice))
