"""What plans rest on besides machine, model and options: facts of engines, advice, adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from kt_cli.core.adapter import Adapter
from kt_cli.core.engine import Facts
from kt_cli.core.hints import Hints
from kt_cli.core.machine import Machine
from kt_cli.core.model import Model
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions

HERE = "this machine"
"""`Machine.source` of the machine that kt runs on."""


def facts_for(machine: Machine, home: Path, model: Model) -> Facts:
    """On this machine, what was measured here corrects the preset, and packs of the model count."""
    return with_packs(measured_facts(machine, home), machine, home, model)


def measured_facts(machine: Machine, home: Path) -> Facts:
    facts = read_facts()
    if machine.source != HERE:
        return facts
    from kt_cli.core.calibrate import calibrated, calibrated_sglang
    from kt_cli.workflow.records import outcomes

    seen = outcomes(home)
    embedded, sglang = calibrated(facts.embedded, seen), calibrated_sglang(facts.sglang, seen)
    return replace(facts, embedded=embedded, sglang=sglang)


def with_packs(facts: Facts, machine: Machine, home: Path, model: Model) -> Facts:
    if machine.source != HERE or not model.path:
        return facts
    packed = _packed(home, model, facts.embedded.methods)
    return replace(facts, embedded=replace(facts.embedded, packed=packed))


def _packed(home: Path, model: Model, methods: Iterable[str]) -> Mapping[str, tuple[int, int]]:
    """Method → (layers, bytes) of the model's experts that are packed already."""
    from kt_cli.weights.packs import Shelf, folder_of

    pack = Shelf(folder_of(home)).fitting(Path(model.path))
    return {name: pack.layers(name.lower()) for name in methods} if pack else {}


def hints_for(name: str, model: Model) -> Hints:
    """A preset's advice, by what was typed, the repository or the folder's name; else none."""
    from kt_cli.catalog.names import lookup
    from kt_cli.catalog.presets import load_presets

    names = (name, model.repo, model.name, Path(model.path).name)
    presets = load_presets()
    for known in names:
        chosen = lookup(known, presets) if known else None
        if chosen:
            return chosen[0].hints
    return Hints()


def adapter_of(options: RunOptions) -> Adapter | None:
    """Raises NotFoundError or KtError for a folder that holds none."""
    if options.lora is None:
        return None
    from kt_cli.catalog.adapters import read_adapter

    return read_adapter(options.lora)
