"""The engine on every kind of CPU: by `KT_ISA` here, by captured machines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from kt_cli.core import isa
from kt_cli.core.machine import Cpu, Engine
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.dtypes import choose_dtype
from kt_cli.engines.facts import read_facts
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from tests.core.builders import machine, small_model
from tests.probe import trees

kt_moe = pytest.importorskip("kt_moe")
KERNELS = {"bf16": "bf16", "int8": "int8", "int4": "int4", None: "bf16"}
"""Format that is asked for → format that the kernels then hold."""


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets `KT_ISA` as it would stand in the environment of a start."""

    def limit(name: str) -> None:
        monkeypatch.setenv(isa.VARIABLE, name)
        kt_moe.use_isa(name)

    yield limit
    kt_moe.use_isa("")


@pytest.mark.parametrize("level", isa.KEYS)
def test_the_engine_answers_on_its_kernels_at_every_level(
    level: str, limited: Callable[[str], None], tiny: Callable[[str], tuple[Path, Any]]
) -> None:
    """Loads, generates, and computes what PyTorch's experts compute, in every format."""
    if level not in kt_moe.cpu_info()["variants"]:
        pytest.skip(f"{level}: this CPU lacks {kt_moe.cpu_info()['lacks'].get(level)}")
    limited(level)
    path, _ = tiny("qwen3_moe")
    features = isa.usable(kt_moe.cpu_info()["isa"], level)
    computed = torch.bfloat16 if isa.multiplies_bf16(features) else torch.float32
    assert choose_dtype(None, "cpu").dtype == computed
    exact = logits(path, dtype="fp32", experts_backend="torch")
    for asked, held in KERNELS.items():
        loaded = engine.load_model(path, RULES, options(experts_format=asked), lambda *_: None)
        layers = [m.compute for m in loaded.model.modules() if type(m).__name__ == "Experts"]
        assert {(type(c).__name__, c.layer.format) for c in layers} == {("KtMoeExperts", held)}
        assert loaded.dtype.dtype == computed
        assert torch.cosine_similarity(of(loaded), exact, dim=-1).median() > 0.95
        assert len(answer(path, experts_format=asked)) == 6


def test_a_level_that_this_cpu_lacks_is_refused_by_name(tiny, limited) -> None:
    lacks = kt_moe.cpu_info()["lacks"]
    for level in set(isa.KEYS) & set(lacks):
        with pytest.raises(kt_moe.IsaError, match=lacks[level].split(",")[0]):
            kt_moe.use_isa(level)


def test_float32_weights_are_kept_where_they_are_asked_for_alone(tiny) -> None:
    path, _ = tiny("qwen3_moe")
    for chosen, name in (
        ({"dtype": "fp32"}, "TorchExperts"),
        ({"dtype": "fp32", "experts_format": "int8"}, "KtMoeExperts"),
        ({"dtype": "auto"}, "KtMoeExperts"),
    ):
        loaded = engine.load_model(path, RULES, options(**chosen), lambda *_: None)
        found = {type(m.compute).__name__ for m in loaded.model.modules() if hasattr(m, "compute")}
        assert found == {name}, chosen


RULES = engine.read_rules(engine.rules_for(None))


def options(**chosen: Any) -> engine.LoadOptions:
    return engine.LoadOptions(threads=2, **chosen)


def of(loaded: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = loaded.model(torch.arange(5, 40)[None]).logits[0].float()
    return found


def logits(path: Path, **chosen: Any) -> torch.Tensor:
    return of(engine.load_model(path, RULES, options(**chosen), lambda *_: None))


def answer(path: Path, **chosen: Any) -> list[int]:
    sizes = {"context": 64, "max_batch": 2, "threads": 2}
    serving = engine.load(path, model_name="m", progress=lambda *_: None, **sizes, **chosen)
    sampling = Sampling(temperature=0, max_tokens=6, ignore_eos=True)
    try:
        return [t for c in serving.submit([5, 6, 7], sampling) for t in c.token_ids]
    finally:
        serving.close()


# Captured CPUs


def planned(cpu: Cpu) -> Plan:
    here = replace(machine(), cpu=cpu, engines=(Engine("kt_moe", "1"),))
    return plan_run(here, small_model(), RunOptions(model="small"), read_facts())


@pytest.mark.parametrize("level", ["", *isa.KEYS, "avx512", "sparc"])
def test_probe_planner_and_engine_agree_on_every_captured_cpu(
    level: str, forest: trees.Forest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(isa.VARIABLE, level)
    names = [n for n in trees.names() if not n.startswith("bad-")]
    for name in names:
        whole = forest.machine(name).cpu
        cpu = forest.machine(name, KT_ISA=level).cpu if level else whole
        assert sorted((*cpu.isa, *cpu.withheld)) == sorted(whole.isa), name
        for feature, check in (("avx512_bf16", "avx512_bf16"), ("amx_tile", "amx_tile")):
            has = feature in whole.isa
            monkeypatch.setattr(torch.cpu, f"_is_{check}_supported", lambda has=has: has)
        made = planned(cpu)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[made.value("compute_dtype")]
        assert choose_dtype(None, "cpu").dtype == dtype, name
        runs = isa.variant(cpu.isa)
        backend = "kt_moe" if "avx2" in whole.isa else "torch"
        assert (made.value("compute_backend"), made.value("isa", "")) == (backend, runs), name
    assert len(names) > 15


def test_no_level_leaves_more_than_the_one_above(forest: trees.Forest) -> None:
    for name in trees.names():
        whole = forest.machine(name).cpu.isa
        kept = [set(isa.usable(whole, level)) for level in isa.KEYS]
        assert all(low <= high for low, high in pairwise(kept)), name
        assert isa.usable(whole, "amx") == isa.usable(whole, "") == whole
        for level in isa.KEYS:
            if isa.variant(whole) and isa.KEYS[level] in whole:
                assert isa.variant(isa.usable(whole, level)) == level, (name, level)


def test_torch_is_held_below_the_same_level(monkeypatch: pytest.MonkeyPatch) -> None:
    from kt_cli.embedded.__main__ import _prepare_environment

    for name in (*isa.torch_environment("avx2"), "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv(isa.VARIABLE, "avx2")
    _prepare_environment(1)
    import os

    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert isa.torch_environment("") == isa.torch_environment("amx") == {}
    with pytest.raises(KtError, match="unknown dtype"):
        choose_dtype("fp7", "cpu")
