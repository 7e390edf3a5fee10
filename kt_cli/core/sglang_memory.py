"""What an SGLang plan lacks of memory, and the cheapest ways out in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.fixes import WayOut, ways_out
from kt_cli.core.ledger import missing, sum_text
from kt_cli.core.methods import nvidia, usable
from kt_cli.core.plan import Fix, Pool, Problem
from kt_cli.core.sglang_choice import SglangCase, SglangChoice, card_sets, tp_values
from kt_cli.core.sglang_draft import draft
from kt_cli.core.sglang_ledger import gpu_pools, node_pools
from kt_cli.core.sglang_solve import SHORTEST_CONTEXT, fits, most_experts, solve, whole
from kt_cli.core.units import gb, tokens
from kt_cli.core.what_if import with_gpus


def gpu_memory(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    pool = min(gpu_pools(case, choice), key=lambda p: p.left)
    if fits(case, choice):
        return
    short = -pool.left
    if short <= 0:
        share = case.wishes.get("mem_fraction")
        why = "weights and KV cache, or the workspace beside them, need more"
        fix = Fix("let the plan choose", "fits", "")
        yield Problem(f"mem-fraction {share} does not fit", why, fixes=(fix,))
        return
    what = f"{case.model.name} does not fit in {pool.name} by {gb(short)}"
    why = f"{pool.name} {sum_text(pool)}, {gb(pool.free)} free"
    yield Problem(what, why, fixes=gpu_fixes(case, choice, pool))


def gpu_fixes(case: SglangCase, choice: SglangChoice, pool: Pool) -> tuple[Fix, ...]:
    """Ways out of what `pool` lacks, cheapest first."""
    short = -pool.left
    ways = [*_gpu_ways(case, choice)]
    if pool.capacity - pool.free >= short:
        ways.insert(0, WayOut(f"free {gb(short)} that other programs hold on {pool.name}", "", 0))
    *flags, memory = ways_out(short, ways, f"on {pool.name}")
    return (*flags, *_more_gpus(case, choice), memory)


def _gpu_ways(case: SglangCase, choice: SglangChoice) -> Iterator[WayOut]:
    for action, flag, changed in _gpu_changes(case, choice):
        after = min(pool.left for pool in gpu_pools(case, changed))
        yield WayOut(action, flag, max(0, -after))


def _more_gpus(case: SglangCase, choice: SglangChoice) -> Iterator[Fix]:
    """The fewest GPUs of the same kind that hold the method's plan."""
    have = len(nvidia(case.machine))
    for count in (2, 4, 8):
        if count <= have or case.wishes.fixed("tp"):
            continue
        grown = replace(case, machine=with_gpus(case.machine, count, None))
        ways = (_sized(grown, choice, tp) for tp in tp_values(grown))
        if any(fits(grown, way) for way in ways):
            yield Fix(f"{count} such GPUs", "fits")
            return


def _sized(case: SglangCase, choice: SglangChoice, tp: int) -> SglangChoice:
    way = draft(case, choice.method, card_sets(case.machine, tp)[0])
    all_on_gpu = case.model.experts and not choice.method
    return whole(case, way) if all_on_gpu else solve(case, way)


def _gpu_changes(case: SglangCase, choice: SglangChoice) -> Iterator[tuple[str, str, SglangChoice]]:
    yield from _contexts(case, choice)
    if choice.experts and choice.method:
        count = most_experts(case, choice).experts
        yield (
            f"{choice.experts} → {count} GPU experts",
            f"--gpu-experts {count}",
            replace(choice, experts=count),
        )
    smallest = min(case.facts.chunks)
    if choice.chunk > smallest:
        changed = replace(choice, chunk=smallest)
        yield f"chunks of {smallest}", f"--chunked-prefill-size {smallest}", changed
    if choice.kv_dtype != "fp8":
        yield "KV cache in fp8", "--kv-cache-dtype fp8", replace(choice, kv_dtype="fp8")
    for tp in tp_values(case):
        if tp > choice.tp:
            cards = card_sets(case.machine, tp)[0]
            yield f"split over {tp} GPUs", f"--tp {tp}", replace(choice, gpus=cards)


def _contexts(case: SglangCase, choice: SglangChoice) -> Iterator[tuple[str, str, SglangChoice]]:
    context = choice.context
    while context > SHORTEST_CONTEXT:
        context = max(SHORTEST_CONTEXT, context // 2)
        shorter = replace(choice, context=context, kv_tokens=context)
        if context == SHORTEST_CONTEXT or fits(case, shorter):
            action = f"context {tokens(choice.context)} → {tokens(context)}"
            yield action, f"--ctx-size {context}", shorter
            return


def host_memory(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    pools = node_pools(case, choice)
    short = sum(map(missing, pools))
    if short:
        have, need = sum(p.capacity for p in pools), sum(p.used + p.margin for p in pools)
        lacking = [p for p in pools if p.short]
        each = ", ".join(f"{p.name} by {gb(p.short)}" for p in lacking)
        where = f"RAM by {gb(short)}" if len(lacking) == 1 else f"RAM: {each}"
        fixes = ways_out(short, _host_ways(case, choice), "RAM")
        what = f"{case.model.name} does not fit in {where}"
        yield Problem(what, f"needs {gb(need)}, has {gb(have)}", fixes=fixes)
        return
    busy = sum(max(0, -p.left) for p in pools)
    if busy:
        what = f"{gb(busy)} of RAM must be freed by other programs first"
        yield Problem(what, f"{gb(sum(p.free for p in pools))} is available now", "warning")


def _host_ways(case: SglangCase, choice: SglangChoice) -> Iterator[WayOut]:
    for method in usable(case.model, case.machine, case.facts):
        changed = replace(choice, method=method.name)
        after = sum(map(missing, node_pools(case, changed)))
        caveat = f" ({method.caveat})" if method.caveat else ""
        action = f"{choice.method or 'this checkpoint'} → {method.name}{caveat}"
        yield WayOut(action, f"--kt-method {method.name}", after)
    every = tuple(n.id for n in case.machine.worker_nodes)
    if len(every) > len(choice.nodes):
        after = sum(map(missing, node_pools(case, replace(choice, nodes=every))))
        flag = f"--numa-nodes {','.join(map(str, every))}"
        yield WayOut(f"all {len(every)} NUMA nodes", flag, after)
