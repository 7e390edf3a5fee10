"""The best of all ways to place a model with SGLang: every split over GPUs, every expert method.

`worth` is a total order, and each way is sized by itself. So more memory never gives a worse plan:
what was possible stays possible, and only something of more worth takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kt_cli.core.ledger import missing
from kt_cli.core.methods import nvidia
from kt_cli.core.sglang_choice import SglangCase, SglangChoice, tp_values
from kt_cli.core.sglang_draft import draft, methods
from kt_cli.core.sglang_ledger import gpu_pools, node_pools
from kt_cli.core.sglang_solve import fits, on_gpu, solve


def best(case: SglangCase) -> SglangChoice:
    """All on the GPUs where that fits, else the first method that fits, else the least short."""
    names, splits = methods(case), _splits(case)
    if not nvidia(case.machine):
        return draft(case, names[0], splits[0])
    whole = [on_gpu(case, draft(case, "", tp)) for tp in sorted(splits)]
    held = [choice for choice in whole if choice]
    if held:
        return _best(case, held)
    found = []
    for name in names:
        found.append(_best(case, (solve(case, draft(case, name, tp)) for tp in splits)))
        if not short(case, found[-1]):
            return found[-1]
    return min(found, key=lambda choice: short(case, choice))


def _splits(case: SglangCase) -> list[int]:
    """Over how many GPUs, by memory they bring together, most first."""
    asked = case.wishes.get("tp")
    return [asked] if asked else tp_values(case) or [1]


def _best(case: SglangCase, choices: Iterable[SglangChoice]) -> SglangChoice:
    """The first among equals."""
    return max(choices, key=lambda choice: worth(case, choice))


def worth(case: SglangCase, choice: SglangChoice) -> tuple[Any, ...]:
    """What a better choice has more of, most important first."""
    return (
        -short(case, choice),
        choice.context,
        choice.slot,
        choice.kv_tokens,
        choice.chunk,
        choice.experts,
    )


def short(case: SglangCase, choice: SglangChoice) -> int:
    """Bytes missing on the GPUs and on an idle host; 0 for what fits."""
    gpus = sum(max(0, -pool.left) for pool in gpu_pools(case, choice))
    host = sum(map(missing, node_pools(case, choice)))
    return gpus + host + (not gpus and not fits(case, choice))
