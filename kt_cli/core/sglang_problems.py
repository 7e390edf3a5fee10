"""What an SGLang plan cannot do: pairs that do not go together, limits, and what to know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kt_cli.core.facts import Method
from kt_cli.core.fixes import means_nothing
from kt_cli.core.methods import cpu_expert_bytes, gpu_obstacle, nvidia, obstacle, usable
from kt_cli.core.model import Experts
from kt_cli.core.plan import Fix, Problem
from kt_cli.core.sglang_choice import SglangCase, SglangChoice, tp_obstacle, tp_values, unsupported
from kt_cli.core.sglang_draft import no_method
from kt_cli.core.sglang_kv import page
from kt_cli.core.sglang_ledger import STEP, gpu_expert_bytes, gpu_pools
from kt_cli.core.sglang_lora import lora_problems
from kt_cli.core.sglang_memory import gpu_fixes, gpu_memory, host_memory
from kt_cli.core.sglang_solve import fits
from kt_cli.core.units import gb, round_down

EMBEDDED = Fix("the embedded engine on the CPU", "runs here", "--engine embedded")


def problems_of(case: SglangCase, choice: SglangChoice) -> tuple[Problem, ...]:
    refused = tuple(_refused(case, choice))
    if any(p.severity == "error" for p in refused):
        return refused
    return (
        *refused,
        *gpu_memory(case, choice),
        *host_memory(case, choice),
        *_advice(case, choice),
    )


# Pairs that cannot work


def _refused(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    foreign = case.wishes.foreign("sglang")
    if foreign:
        yield means_nothing(foreign, "SGLang", "the embedded engine")
    if choice.kv_dtype == "fp32":
        fix = Fix("a cache in bf16", "runs", "--kv-cache-dtype bf16")
        yield Problem("SGLang keeps no KV cache in fp32", "it knows bf16 and fp8", fixes=(fix,))
    if choice.kv_dtype == "bf16" and case.model.attention.compressed_layers:
        fix = Fix("a cache in fp8", "runs", "--kv-cache-dtype fp8")
        what = "SGLang keeps compressed attention in fp8 only"
        yield Problem(what, "its start-up check refuses bf16", fixes=(fix,))
    yield from _hardware(case)
    yield from _splits(case, choice)
    yield from _methods(case, choice)
    yield from _limits(case, choice)
    yield from lora_problems(case, choice)


def _hardware(case: SglangCase) -> Iterator[Problem]:
    others = sorted({g.vendor for g in case.machine.gpus} - {"nvidia"})
    if nvidia(case.machine):
        return
    what = f"SGLang with CPU experts cannot use {', '.join(others)} devices" if others else ""
    why = "its published packages are built for CUDA only"
    yield Problem(what or "SGLang with CPU experts needs an NVIDIA GPU", why, fixes=(EMBEDDED,))


def _splits(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    have = len(nvidia(case.machine))
    if not have:
        return
    reason = tp_obstacle(case.model, choice.tp, case.hints.tp_max)
    if choice.tp > have:
        reason = f"this machine has {have} NVIDIA GPUs"
    if reason:
        good = [Fix(f"tp {tp}", "possible", f"--tp {tp}") for tp in tp_values(case)]
        yield Problem(f"tp {choice.tp} is impossible", reason, fixes=tuple(good))


def _methods(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    """The checks of a format hold wherever its experts lie."""
    model = case.model
    if not case.cards(choice):
        return
    if model.quantization.method == "gguf" and not choice.method:
        yield _whole_gguf(case)
        return
    barred = gpu_obstacle(model, case.cards(choice), case.facts)
    method = case.method(choice.method)
    if barred and (method is None or model.quantization.method in method.reads):
        yield _barred(case, barred, choice.method)
        return
    if model.experts is None:
        return
    if choice.method:
        reason = unsupported(case) or (obstacle(method, model, case.machine) if method else "")
        if method is None or reason:
            yield _impossible(case, choice.method, reason)
            return
        yield from _widths(case, choice, model.experts)
        yield from _conversion(case, choice)
    elif choice.experts < model.experts.count or not fits(case, choice):
        yield _only_on_gpu(case, choice, model.experts)


def _whole_gguf(case: SglangCase) -> Problem:
    flags = "--kt-method LLAMAFILE --weights-path FOLDER"
    beside = Fix("the original checkpoint, with the experts of this one", "possible", flags)
    why = "SGLang reads a GGUF for the experts only, beside the original checkpoint"
    return Problem(f"{case.model.name} is a GGUF", why, fixes=(beside,))


def _barred(case: SglangCase, why: str, name: str) -> Problem:
    """Also where the CPU has a method: attention and dense layers have the same format."""
    stored = case.model.quantization.method
    able = usable(case.model, case.machine, case.facts)
    fixes = [_by(m) for m in able if stored not in m.reads]
    what = f"{name} is impossible here" if name else f"these GPUs cannot compute {stored}"
    return Problem(what, why, fixes=tuple(fixes))


def _by(method: Method) -> Fix:
    return Fix(method.name, method.caveat or "possible", f"--kt-method {method.name}")


def _impossible(case: SglangCase, name: str, reason: str) -> Problem:
    """`reason` is empty where kt-kernel has no method of that name."""
    able = [] if unsupported(case) else usable(case.model, case.machine, case.facts)
    fixes = tuple(_by(m) for m in able if m.name != name)
    return Problem(
        f"{name} is impossible here", reason or "kt-kernel does not know it", fixes=fixes
    )


def _only_on_gpu(case: SglangCase, choice: SglangChoice, experts: Experts) -> Problem:
    """No method computes experts on the CPU, and not all of them fit on the GPUs."""
    whole = replace(choice, experts=experts.count)
    pool = min(gpu_pools(case, whole), key=lambda p: p.left)
    size = gpu_expert_bytes(case.model, choice.tp) * experts.count * len(experts.layers)
    why = f"{no_method(case)}; all {experts.count} experts of a layer must be on the GPU: "
    if pool.left < 0:
        why += f"they take {gb(size)} of {pool.name}, {gb(-pool.left)} is missing"
    else:
        why += f"{choice.experts} were asked for"
    every = Fix("all experts on the GPU", "possible", f"--gpu-experts {experts.count}")
    fixes = gpu_fixes(case, whole, pool) if pool.left < 0 else (every,)
    able = [] if unsupported(case) else usable(case.model, case.machine, case.facts)
    what = f"{case.model.name} cannot have its experts on the CPU, and not all fit on the GPU"
    return Problem(what, why, fixes=(*(_by(m) for m in able), *fixes))


def _widths(case: SglangCase, choice: SglangChoice, experts: Experts) -> Iterator[Problem]:
    method, count = case.method(choice.method), max(1, len(choice.nodes))
    known = {n.id for n in case.machine.worker_nodes}
    strange = [n for n in choice.nodes if n not in known]
    if strange:
        names = ",".join(map(str, sorted(known)))
        fix = Fix(f"nodes {names}", "possible", f"--numa-nodes {names}")
        why = "it has no allowed cores or no memory"
        yield Problem(f"NUMA node {strange[0]} cannot run experts", why, fixes=(fix,))
    if method and (experts.intermediate % count or experts.intermediate // count % method.rows):
        what = f"experts of width {experts.intermediate} do not split over {count} nodes"
        why = f"{method.name} works in blocks of {method.rows}"
        first = choice.nodes[0] if choice.nodes else 0
        fix = Fix("one node", "possible", f"--numa-nodes {first}")
        yield Problem(what, why, fixes=(fix,))


def _conversion(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    method, experts = case.method(choice.method), case.model.experts
    native = method is None or case.model.quantization.method in method.reads
    if native or case.wishes.get("weights_path") or not (method and experts):
        return
    size = cpu_expert_bytes(method, case.model)
    fix = Fix(method.prepare, f"writes {gb(size)}", "--weights-path FOLDER")
    why = f"{method.name} does not read {case.model.quantization.method} checkpoints"
    yield Problem("the CPU experts must be converted first", why, "warning", (fix,))


def _limits(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    limit, experts = case.model.context, case.model.experts
    asked = case.wishes.get("gpu_experts")
    if limit and choice.context > limit:
        fix = Fix(f"context {limit}", "possible", f"--ctx-size {limit}")
        why = f"the model knows positions up to {limit}"
        yield Problem(f"context {choice.context} is more than the model can do", why, fixes=(fix,))
    if experts and asked is not None and asked > experts.count:
        fix = Fix(f"{experts.count} experts", "all of them", f"--gpu-experts {experts.count}")
        what = f"a layer has {experts.count} experts, not {asked}"
        yield Problem(what, "GPU experts are counted per layer", fixes=(fix,))
    yield from _server_checks(case, choice)
    threshold = case.wishes.get("gpu_prefill_threshold")
    method = case.method(choice.method)
    if threshold and method and not method.layerwise:
        what = f"{method.name} cannot compute whole layers on the GPU"
        fix = Fix("no threshold", "possible", "")
        yield Problem(what, "the first long prompt would end the server", fixes=(fix,))
    elif threshold and threshold > choice.chunk:
        fix = Fix(
            "a threshold within a chunk", "possible", f"--kt-gpu-prefill-threshold {choice.chunk}"
        )
        why = f"it is compared with chunks of {choice.chunk} tokens"
        yield Problem(f"a prefill threshold of {threshold} is never reached", why, fixes=(fix,))


def _server_checks(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    """What SGLang refuses after it has read its arguments."""
    name = case.wishes.get("served_model_name") or case.model.name
    if ":" in name:
        plain = name.replace(":", "-")
        fix = Fix("a name without a colon", "possible", f"--served-model-name {plain}")
        why = "SGLang keeps `model:adapter` for adapters"
        yield Problem(f"the model cannot be served as {name}", why, fixes=(fix,))
    step = max(page(case), STEP if choice.method else 1)
    if choice.chunk % step:
        good = max(step, round_down(choice.chunk, step))
        fix = Fix(f"chunks of {good}", "possible", f"--chunked-prefill-size {good}")
        why = f"chunks must be a multiple of {step} tokens here"
        yield Problem(f"chunks of {choice.chunk} are impossible", why, fixes=(fix,))


# Advice


def _advice(case: SglangCase, choice: SglangChoice) -> Iterator[Problem]:
    deferred = case.wishes.get("deferred_experts") or 0
    if deferred > 4:
        fix = Fix("at most 4", "little loss", "--kt-max-deferred-experts-per-token 4")
        what = f"{deferred} deferred experts lose accuracy"
        yield Problem(what, "kt-kernel's own guidance ends at 4", "warning", (fix,))
    asked = case.method(case.wishes.get("kt_method") or "")
    if asked and asked.caveat:
        yield Problem(f"{asked.name} has a caveat", asked.caveat, "warning")
    threads = case.wishes.get("cpu_threads")
    cores = case.machine.cpu.physical_cores
    if choice.method and threads and threads >= cores:
        fix = Fix(
            f"{max(1, cores - 1)} threads", "no collapse", f"--cpu-threads {max(1, cores - 1)}"
        )
        why = f"{cores} physical cores, and kt-kernel's queue thread spins on one more"
        yield Problem(f"{threads} threads leave no core free", why, "warning", (fix,))
