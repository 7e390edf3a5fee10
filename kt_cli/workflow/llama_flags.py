"""Flags of llama.cpp that people type from habit, answered with what they are called here."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.errors import UsageError
from kt_cli.opts import opt

_WHY = {
    "ngl": "layers are not split between CPU and GPU here: all but the experts goes to the GPU",
    "ncmoe": "experts are placed by their number in each layer, not by whole layers",
    "ot": "tensors are placed by the plan: experts on the CPU, the rest on the GPU",
}
_FIX = {
    "ngl": "`--gpu-experts N` puts N experts of each layer there too; `--device cpu` uses no GPU",
    "ncmoe": "`--gpu-experts N` keeps N experts of each layer on the GPU",
    "ot": "`--gpu-experts 0` keeps all experts on the CPU; `--rules FILE` places modules by name",
}


@dataclass(frozen=True)
class LlamaFlags:
    """Without slots, so that another options class may stand beside it as a base."""

    ngl: str | None = opt(
        "-ngl", "--n-gpu-layers", "--gpu-layers", help="See --gpu-experts", hidden=True
    )
    ncmoe: str | None = opt("-ncmoe", "--n-cpu-moe", help="See --gpu-experts", hidden=True)
    ot: str | None = opt("-ot", "--override-tensor", help="See --gpu-experts", hidden=True)


def refuse_llama(flags: LlamaFlags) -> None:
    """Raises UsageError that tells what to use instead."""
    for name, why in _WHY.items():
        if getattr(flags, name) is not None:
            raise UsageError(f"-{name} is a flag of llama.cpp", why, _FIX[name])
