"""The SGLang commands of all plans: every preset model and its variants on every preset machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kt_cli.catalog.presets import VARIANT_CONFIGS, Preset, load_presets, preset_model
from kt_cli.core.hints import Variant
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.engines import sglang
from kt_cli.engines.facts import read_facts
from kt_cli.errors import KtError
from kt_cli.options import RunOptions
from tests.golden.make import machines


@dataclass(frozen=True)
class Command:
    machine: str
    model: str
    argv: tuple[str, ...]
    """Arguments of `sglang.launch_server`."""
    plan: Plan
    config: Mapping[str, Any]
    capability: tuple[int, int]
    memory: int
    context: int

    def flags(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for word in self.argv:
            if word.startswith("--"):
                found[word] = []
            else:
                found[[*found][-1]].append(word)
        return found


def commands() -> Iterator[Command]:
    for on, machine in machines().items():
        cards = {gpu.index: gpu for gpu in machine.gpus}
        for preset in load_presets():
            for variant in (None, *preset.variants):
                try:
                    model = preset_model(preset, variant)
                except KtError:
                    continue
                options = RunOptions(model=preset.name)
                plan = plan_run(machine, model, options, read_facts(), hints=preset.hints)
                if plan.engine != sglang.NAME or not plan.fits:
                    continue
                plan = replace(plan, path=f"/models/{model.name}")
                argv = sglang.lower(plan, options, "python", machine).argv[3:]
                used = [cards[index] for index in plan.value("gpus")]
                yield Command(
                    on, model.name, argv, plan, _config(preset, variant),
                    min(g.capability or (8, 0) for g in used), min(g.memory for g in used),
                    plan.value("context"),
                )  # fmt: skip


def _config(preset: Preset, variant: Variant | None) -> Mapping[str, Any]:
    how = VARIANT_CONFIGS.get(variant.method) if variant else None
    return {**preset.config, "quantization_config": how} if how else preset.config
