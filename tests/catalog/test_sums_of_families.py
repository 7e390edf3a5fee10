"""Every line of the ledger against the sums of a family's tensors, for both engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_cli import catalog
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import DTYPE_BYTES, GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.builders import AMX
from tests.core.test_plan_sglang import server
from tests.family_ggufs import KINDS, gguf
from tests.family_headers import FAMILIES, made
from tests.family_layers import KV, SMALL, E, Headers
from tests.gguf_bytes import write
from tests.tiny_models import write_checkpoint

LINES = ("attention", "dense MLP", "shared experts", "embedding", "router, norms")


def planned(model: Model, engine: str, gpus: int = 1, **asked: Any) -> Plan:
    machine = server(gpus=gpus, vram=80 * GIB, isa=AMX)
    cards = tuple(replace(gpu, capability=(9, 0)) for gpu in machine.gpus)
    options = RunOptions(model="m", engine=engine, **asked)
    return plan_run(replace(machine, gpus=cards), model, options, read_facts())


def items(made: Plan, *pools: str) -> dict[str, int]:
    found = [p for p in made.pools if p.name.startswith(pools)]
    return {item.name: item.bytes for pool in found for item in pool.items}


def differences(where: str, found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """Lines that are wrong, missing, or there without a tensor."""
    return [
        f"{where}: {line} is {found.get(line, 0)}, its tensors are {expected.get(line, 0)}"
        for line in expected
        if found.get(line, 0) != expected.get(line, 0)
    ]


def sums(held: Headers, draft: bool = False) -> dict[str, int]:
    lines = {line: held.bytes[line] for line in LINES}
    return {**lines, "GPU experts": held.bytes["experts"], "draft": draft * held.bytes["draft"]}


def totals(held: Headers, draft: bool) -> dict[str, int]:
    """Qwen3-Next's configuration does not say that it has a draft layer."""
    less = {} if draft else {"draft"}
    return {
        "bytes": sum(size for line, size in held.bytes.items() if line not in less),
        "parameters": sum(count for line, count in held.parameters.items() if line not in less),
    }


def of_embedded(held: Headers, width: float) -> dict[str, int]:
    """Everything in the compute type; draft layers are not loaded."""
    lines = {line: int(held.parameters[line] * width) for line in (*LINES, "experts")}
    return lines | {"draft": 0}


def test_lines_of_gguf_files_are_the_sums_of_their_tensors(tmp_path: Path) -> None:
    wrong: list[str] = []
    for kind in KINDS:
        keys, tensors, held = gguf(kind, 3)
        model = catalog.read(write(tmp_path / f"{kind}.gguf", keys, tensors))
        wrong += differences(kind, items(planned(model, "sglang"), "GPU0"), sums(held))
        counts = {"bytes": model.total_bytes, "parameters": model.total_parameters}
        wrong += differences(kind, counts, totals(held, draft=True))
    assert not wrong, "\n".join(wrong)


def test_lines_of_every_family_are_the_sums_of_its_tensors(tmp_path: Path) -> None:
    wrong: list[str] = []
    for name in FAMILIES:
        for quantised in (False, True):
            where = f"{name} {'quantised' if quantised else 'bf16'}"
            config, held = made(name, quantised)
            folder = write_checkpoint(tmp_path / where.replace(" ", "-"), config, held.tensors)
            read, computed = catalog.read(folder), catalog.from_config(config, "m")
            for form, model in {"headers": read, "configuration": computed}.items():
                place = f"{where} from {form}"
                plan = planned(model, "sglang")
                wrong += differences(place, items(plan, "GPU0"), sums(held))
                told = model.exact or "num_nextn_predict_layers" in config
                counts = {"bytes": model.total_bytes, "parameters": model.total_parameters}
                wrong += differences(place, counts, totals(held, told))
            drafted = planned(read, "sglang", speculative_algorithm="NEXTN")
            wrong += differences(f"{where} drafted", items(drafted, "GPU0"), sums(held, True))
            if not quantised:
                plan = planned(read, "embedded")
                width = DTYPE_BYTES[str(plan.value("compute_dtype"))]
                expected = of_embedded(held, width)
                wrong += differences(f"{where} embedded", items(plan, "RAM"), expected)
    assert not wrong, "\n".join(wrong)


def of_rank(held: Headers, layers: int, tp: int) -> dict[str, int]:
    """Split evenly, but for norms, routers and down-projections, and key and value heads, of which
    no GPU has less than one."""
    split = held.bytes["attention"] - held.whole
    more = held.heads * (max(1, tp // KV) - 1) if held.heads else 0
    lines = {line: -(-held.bytes[line] // tp) for line in LINES}
    lines["attention"] = held.whole + -(-(split + more) // tp)
    lines[SMALL] = held.bytes[SMALL]
    each = -(-held.bytes["experts"] // (E * layers * tp))
    return {**lines, "GPU experts": E * layers * each}


def test_what_a_gpu_of_several_holds_is_its_part_of_the_tensors(tmp_path: Path) -> None:
    wrong: list[str] = []
    for name in FAMILIES:
        config, held = made(name, False)
        model = catalog.read(write_checkpoint(tmp_path / name, config, held.tensors))
        assert model.experts
        for tp in (2, 4):
            plan = planned(model, "sglang", gpus=tp, tp=tp)
            expected = of_rank(held, len(model.experts.layers), tp)
            for rank in range(tp):
                wrong += differences(
                    f"{name} GPU{rank} of {tp}", items(plan, f"GPU{rank}"), expected
                )
    assert not wrong, "\n".join(wrong)
