"""Golden plans: every preset model on every preset machine, one text file a machine.

python -m tests.golden.make           writes the files
python -m tests.golden.make --check   fails when a plan differs from its file
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kt_cli.catalog.presets import Preset, planned_presets, preset_model
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan, Pool, Problem, Range
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import gb
from kt_cli.core.what_if import completed
from kt_cli.engines.facts import presets_folder, read_facts, read_gpus
from kt_cli.options import RunOptions
from kt_cli.probe import toml
from kt_cli.ui.plan import folded

FOLDER = Path(__file__).parent / "plans"
SHOWN = (
    ("context", "ctx"),
    ("kv_tokens", "kv"),
    ("max_running_requests", "requests"),
    ("chunked_prefill_size", "chunk"),
    ("gpu_prefill_threshold", "layerwise from"),
    ("gpu_experts", "gpu experts"),
    ("tp", "tp"),
    ("mem_fraction", "mem-fraction"),
    ("cpu_threads", "threads"),
    ("threadpool_count", "pools"),
    ("attention_backend", "attention"),
)


def machines() -> dict[str, Machine]:
    table = read_gpus()
    files = sorted((presets_folder() / "machines").glob("*.toml"))
    return {f.stem: completed(toml.load(f), table) for f in files}


@cache
def models() -> tuple[tuple[Preset, Model], ...]:
    return tuple((preset, preset_model(preset)) for preset in planned_presets())


def plans(machine: Machine) -> Iterator[tuple[Model, Plan]]:
    facts = read_facts()
    for preset, model in models():
        wanted = RunOptions(model=preset.name)
        yield model, plan_run(machine, model, wanted, facts, hints=preset.hints)


def page(name: str, machine: Machine) -> str:
    """Models with the same plan stand together."""
    same: dict[str, list[str]] = {}
    for model, plan in plans(machine):
        text = "\n".join(block(plan)).replace(model.name, "it")
        same.setdefault(text, []).append(model.name)
    blocks = [f"{', '.join(names)}\n{text}" for text, names in same.items()]
    return f"# {name}\n\n" + "\n\n".join(blocks) + "\n"


def block(plan: Plan) -> Iterator[str]:
    method = plan.value("kt_method") or "all on the GPU"
    yield f"  {plan.engine}, {method}" + ("" if plan.fits else ", DOES NOT FIT")
    shown = ((label, plan.value(key)) for key, label in SHOWN)
    yield "  " + ", ".join(f"{label} {value}" for label, value in shown if value is not None)
    for pool, count in folded([p for p in plan.pools if p.name != "disk"]):
        yield f"  {pool_line(pool, count)}"
    speed = plan.speed
    if plan.fits and speed.decode:
        yield f"  decode {span(speed.decode)}, prefill {span(speed.prefill)}, {speed.limit}"
    yield from (f"  {line}" for problem in plan.problems for line in problem_lines(problem))


def pool_line(pool: Pool, count: int) -> str:
    times = f"{count}× " if count > 1 else ""
    parts = ", ".join(f"{item.name} {gb(item.bytes)}" for item in pool.items)
    return f"{times}{pool.name} {gb(pool.used + pool.margin)} of {gb(pool.capacity)}: {parts}"


def problem_lines(problem: Problem) -> Iterator[str]:
    if problem.severity == "info":
        return
    yield f"{problem.severity}: {problem.what}" + (f" ({problem.why})" if problem.why else "")
    for fix in problem.fixes[:4]:
        yield f"  {fix.action}: {fix.effect}"


def span(range_: Range | None) -> str:
    return f"{range_.low:.3g}–{range_.high:.3g}" if range_ else "?"


def main(argv: list[str]) -> int:
    changed = []
    for name, machine in machines().items():
        file, text = FOLDER / f"{name}.txt", page(name, machine)
        if "--check" not in argv:
            FOLDER.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            changed.append(name)
    for name in changed:
        print(f"plans on {name} differ; run python -m tests.golden.make and look at the diff")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
