"""`plan_sft`: what LoRA fine-tuning of a model needs on a machine, with its experts on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.facts import SftFormat
from kt_cli.core.fixes import WayOut, ways_out
from kt_cli.core.ledger import missing, sum_text
from kt_cli.core.methods import nvidia
from kt_cli.core.plan import Decision, Fix, Plan, Pool, Problem, Speed
from kt_cli.core.sft_ledger import SftCase, SftChoice, sft_pools
from kt_cli.core.units import gb, tokens

SHORTEST = 512
"""No sample is cut below this without being asked."""


def plan_sft(case: SftCase) -> Plan:
    """On the fewest GPUs that hold it."""
    problem = _refusal(case)
    choice = None if problem else _choose(case)
    return Plan(
        model=case.model.name,
        path=case.model.path,
        machine=case.machine.name,
        engine="llamafactory",
        pools=sft_pools(case, choice) if choice else (),
        decisions=_decisions(case, choice) if choice else (),
        problems=tuple(_problems(case, choice)) if choice else (problem,) if problem else (),
        speed=Speed(limit="the speed of training is not predicted"),
    )


# What cannot work


def _refusal(case: SftCase) -> Problem | None:
    model, stored = case.model, case.model.quantization.method
    if not nvidia(case.machine):
        why = "weights beside the experts must lie on a CUDA device"
        return Problem("fine-tuning with experts on the CPU needs an NVIDIA GPU", why)
    if not model.architecture.startswith(case.facts.architectures):
        why = f"kt-kernel's training layers do not know {model.architecture}"
        return Problem(f"{model.name} cannot be fine-tuned with experts on the CPU", why)
    reading = _reading(case)
    if not reading:
        fix = Fix("a BF16 checkpoint of the model", "possible")
        why = f"the training kernels do not read {stored} experts"
        return Problem(f"{model.name} is stored as {stored}", why, fixes=(fix,))
    if not _formats(case):
        wanted = " ".join(reading[0].isa[0])
        why = f"they need the CPU features {wanted}, {case.machine.cpu.model} lacks them"
        return Problem(f"kt-kernel's {reading[0].name} training kernels do not run here", why)
    return None


def _reading(case: SftCase) -> list[SftFormat]:
    """Formats that take the checkpoint, those without a conversion first."""
    model, stored = case.model, case.model.quantization.method
    found = [
        f
        for f in case.facts.formats
        if stored in (*f.reads, *f.converts)
        and (not f.architectures or model.architecture.startswith(f.architectures))
    ]
    return sorted(found, key=lambda f: stored not in f.reads)


def _formats(case: SftCase) -> list[SftFormat]:
    cpu = case.machine.cpu
    return [f for f in _reading(case) if any(cpu.has(*features) for features in f.isa)]


# The choice


def _choose(case: SftCase) -> SftChoice:
    """The first way that fits, else the one that lacks least."""
    ways = list(_ways(case))
    return next((w for w in ways if not _short(case, w)), min(ways, key=lambda w: _short(case, w)))


def _ways(case: SftCase) -> Iterator[SftChoice]:
    """Best first: the checkpoint's own format, few GPUs, activations kept."""
    length = case.cutoff or min(case.facts.cutoff, case.model.context or case.facts.cutoff)
    for form in _formats(case):
        for count in range(1, len(nvidia(case.machine)) + 1):
            for kept in (True, False):
                yield SftChoice(form, count, length, kept)


def _short(case: SftCase, choice: SftChoice) -> int:
    return sum(_lacking(pool) for pool in sft_pools(case, choice))


def _lacking(pool: Pool) -> int:
    """GPU memory that others hold is not there; RAM may be freed."""
    return missing(pool) if pool.name == "RAM" else max(0, -pool.left)


def _decisions(case: SftCase, choice: SftChoice) -> tuple[Decision, ...]:
    form, model, rank = choice.form, case.model, case.facts.rank
    native = model.quantization.method in form.reads
    form_why = "the checkpoint's own format" if native else f"less RAM; first: {form.prepare}"
    kept_why = "nothing is computed twice" if choice.kept else "memory holds only layer inputs"
    return (
        Decision("engine", "llamafactory", "it trains with kt-kernel's experts"),
        Decision("method", "lora", "experts stay frozen, adapters are trained"),
        Decision("lora_rank", rank, "LLaMA-Factory's default"),
        Decision("kt_method", form.name, form_why),
        Decision("context", choice.tokens, "the longest sample, one a GPU"),
        Decision("gpus", choice.gpus, "the fewest that hold it"),
        Decision("activations", "kept" if choice.kept else "recomputed", kept_why),
    )


# What is missing


def _problems(case: SftCase, choice: SftChoice) -> Iterator[Problem]:
    if case.model.quantization.method not in choice.form.reads:
        what = f"the experts must be converted to {choice.form.name} first"
        yield Problem(what, choice.form.prepare, "warning")
    pools = sft_pools(case, choice)
    worst = max(pools[:-1], key=_lacking)
    for pool in (worst, pools[-1]):
        short = _lacking(pool)
        if short:
            what = f"{case.model.name} does not fit in {pool.name} by {gb(short)}"
            fixes = ways_out(short, _ways_out(case, choice, pool.name), pool.name)
            yield Problem(what, f"{pool.name} {sum_text(pool)}", fixes=fixes)
        elif pool.left < 0:
            what = f"{gb(-pool.left)} of {pool.name} must be freed by other programs first"
            yield Problem(what, f"{gb(pool.free)} is free now", "warning")


def _ways_out(case: SftCase, choice: SftChoice, name: str) -> Iterator[WayOut]:
    for action, changed in _changes(case, choice):
        after = next(p for p in sft_pools(case, changed) if p.name == name)
        yield WayOut(action, "", _lacking(after))


def _changes(case: SftCase, choice: SftChoice) -> Iterator[tuple[str, SftChoice]]:
    if choice.tokens > SHORTEST:
        action = f"samples of {tokens(choice.tokens)} → {tokens(SHORTEST)} tokens"
        yield action, replace(choice, tokens=SHORTEST)
    for form in _formats(case):
        if form.weight < choice.form.weight:
            yield f"{choice.form.name} → {form.name}", replace(choice, form=form)
