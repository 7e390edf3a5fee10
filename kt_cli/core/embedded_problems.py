"""What an embedded plan cannot do, and the cheapest ways out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.embedded_ledger import Case, Choice, pools_of
from kt_cli.core.fixes import WayOut, means_nothing, ways_out
from kt_cli.core.ledger import missing, sum_text
from kt_cli.core.plan import Fix, Pool, Problem
from kt_cli.core.sglang_choice import starting
from kt_cli.core.units import gb, round_down, tokens

SHORTEST_CONTEXT = 2048
"""No context is shortened below this without being asked."""


def impossible(case: Case, choice: Choice) -> Iterator[Problem]:
    foreign = case.wishes.foreign("embedded")
    if foreign:
        yield means_nothing(foreign, "the embedded engine", "SGLang")
    if choice.kv_dtype != choice.dtype:
        why = "attention and cache share one type"
        fix = Fix(f"a cache in {choice.dtype}", "runs", f"--kv-cache-dtype {choice.dtype}")
        yield Problem(f"no cache in {choice.kv_dtype} beside {choice.dtype}", why, fixes=(fix,))
    absent = starting(case.facts.absent, case.model.architecture)
    if absent:
        yield Problem(f"the embedded engine cannot load {case.model.name}", absent)
    stored = case.model.quantization.method
    if stored not in case.facts.reads:
        fix = Fix("a BF16 checkpoint of the model", "runs", "")
        why = f"the embedded engine reads {', '.join(case.facts.reads)} weights only"
        yield Problem(f"{case.model.name} is stored as {stored}", why, fixes=(fix,))
    if choice.device != "cpu" and case.gpu(choice.device) is None:
        have = ", ".join(f"cuda:{g.index}" for g in case.machine.gpus) or "no GPU"
        yield Problem(f"device {choice.device} is not there", f"this machine has {have}")
    if case.wishes.fixed("kt_method") and choice.method not in case.facts.methods:
        names = ", ".join(case.facts.methods)
        why = f"its formats: {names}"
        yield Problem(f"the embedded engine has no expert format {choice.method}", why)
    if case.wishes.get("experts_backend") == "torch" and case.wishes.fixed("kt_method"):
        fix = Fix("our kernels", "runs", "--experts-backend auto")
        why = f"PyTorch's operator computes experts as {choice.dtype}"
        yield Problem(f"experts in {choice.method} need our kernels", why, fixes=(fix,))
    if case.model.context and choice.context > case.model.context:
        limit = case.model.context
        why = f"the model knows positions up to {limit}"
        yield Problem(f"context {choice.context} is more than the model can do", why)
    if choice.kv_tokens < min(choice.context, case.model.context or choice.context):
        why = f"the KV cache holds {choice.kv_tokens} tokens, a request may have {choice.context}"
        yield Problem("a request of full length could never run", why, "warning")


def memory_problems(case: Case, choice: Choice, pools: tuple[Pool, ...]) -> Iterator[Problem]:
    for pool in pools:
        short = missing(pool)
        if short:
            what = f"{case.model.name} does not fit in {pool.name} by {gb(short)}"
            fixes = ways_out(short, _ways(case, choice, pool.name), pool.name)
            yield Problem(what, f"{pool.name} {sum_text(pool)}", fixes=fixes)
        elif pool.left < 0:
            busy = f"{gb(-pool.left)} of {pool.name} must be freed by other programs first"
            why = f"needs {gb(pool.used + pool.margin)}, {gb(pool.free)} is free now"
            yield Problem(busy, why, "warning")


def _ways(case: Case, choice: Choice, pool: str) -> Iterator[WayOut]:
    for action, flag, changed in _changes(case, choice):
        after = next(p for p in pools_of(case, changed) if p.name == pool)
        yield WayOut(action, flag, missing(after))


def _changes(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    """Cheapest first: what costs little use, then what costs accuracy."""
    if choice.kv_tokens > choice.context:
        smaller = replace(choice, kv_tokens=choice.context)
        yield (
            f"KV cache of {choice.context} tokens",
            f"--max-total-tokens {choice.context}",
            smaller,
        )
    yield from _contexts(case, choice)
    if choice.dtype == "fp32" and choice.backend == "torch":
        narrow = replace(choice, dtype="bf16", kv_dtype="bf16")
        yield "fp32 → bf16 (slow on this CPU)", "--dtype bf16", narrow
    yield from _formats(case, choice)


def _contexts(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    """The longest shorter context that fits, else the shortest."""
    context = choice.context
    while context > SHORTEST_CONTEXT:
        context = max(SHORTEST_CONTEXT, round_down(context // 2, 256))
        shorter = replace(choice, context=context, kv_tokens=context)
        if context == SHORTEST_CONTEXT or not any(map(missing, pools_of(case, shorter))):
            flag = f"--ctx-size {context}"
            if case.wishes.fixed("max_total_tokens"):
                flag += f" --max-total-tokens {context}"
            yield f"context {tokens(choice.context)} → {tokens(context)}", flag, shorter
            return


def _formats(case: Case, choice: Choice) -> Iterator[tuple[str, str, Choice]]:
    if choice.backend == "torch":
        return
    methods = list(case.facts.methods)
    after = methods[methods.index(choice.method) + 1 :] if choice.method in methods else []
    for method in after:
        changed = replace(choice, method=method)
        yield f"{choice.method} → {method}", f"--kt-method {method}", changed
