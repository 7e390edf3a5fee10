"""Which models a machine runs, best first: one row a model, made from its plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kt_cli.core.model import Model
from kt_cli.core.plan import Plan, Range


@dataclass(frozen=True, slots=True)
class Fit:
    """`short` is what is missing to run it, in words, empty where it runs."""

    model: str
    family: str
    runs: bool
    engine: str
    method: str
    context: int
    decode: Range | None
    prefill: Range | None
    download: int
    ram: int
    vram: int
    parameters: int
    gpus: int = 0
    local: bool = False
    short: str = ""
    fix: str = ""
    flag: str = ""
    """A flag with which it runs, empty where no single one is enough."""
    warnings: tuple[str, ...] = ()


def fit_of(model: Model, plan: Plan, family: str) -> Fit:
    errors = [p for p in plan.problems if p.severity == "error"]
    fixes = [f for p in errors for f in p.fixes]
    cures = [f for f in fixes if f.flag and f.effect == "fits" and len(errors) == 1]
    return Fit(
        model=model.name,
        family=family,
        runs=plan.fits,
        engine=plan.engine,
        method=str(plan.value("kt_method") or "GPU only"),
        context=int(plan.value("context", 0)),
        decode=plan.speed.decode,
        prefill=plan.speed.prefill,
        download=0 if model.path else model.total_bytes,
        ram=sum(p.used for p in plan.pools if p.name == "RAM" or p.name.startswith("node")),
        vram=sum(p.used for p in plan.pools if p.name.startswith("GPU")),
        parameters=model.total_parameters,
        gpus=sum(p.name.startswith("GPU") for p in plan.pools),
        local=bool(model.path),
        short=errors[0].what if errors else "",
        fix=(cures or fixes)[0].action if fixes else "",
        flag=cures[0].flag if cures else "",
        warnings=tuple(p.what for p in plan.problems if p.severity == "warning"),
    )


def best(rows: Sequence[Fit]) -> Fit:
    """Of a model's checkpoints: the first that runs, else the first."""
    return next((row for row in rows if row.runs), rows[0])


def _middle(range_: Range | None) -> float:
    return (range_.low + range_.high) / 2 if range_ else 0.0


SORTS: Mapping[str, Callable[[Fit], object]] = {
    "size": lambda row: (not row.runs, -row.parameters),
    "speed": lambda row: (not row.runs, -_middle(row.decode)),
    "prefill": lambda row: (not row.runs, -_middle(row.prefill)),
    "context": lambda row: (not row.runs, -row.context),
    "download": lambda row: (not row.runs, row.download),
    "name": lambda row: row.model.lower(),
}
"""Name → key; what runs always stands first, but for the order of names."""


def ranked(rows: Sequence[Fit], sort: str) -> list[Fit]:
    return sorted(rows, key=SORTS[sort])  # type: ignore[arg-type]
