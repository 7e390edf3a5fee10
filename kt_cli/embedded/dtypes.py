"""In which dtype the model computes, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from kt_cli.core import isa
from kt_cli.errors import UsageError

_NAMES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class DtypeChoice:
    dtype: torch.dtype
    why: str
    asked: bool = False
    """By the user, not chosen for this machine."""


def choose_dtype(asked: str | None, device: str) -> DtypeChoice:
    """`asked` is None or `auto` to decide here. Raises `UsageError` for an unknown name."""
    if asked not in (None, "auto"):
        if asked not in _NAMES:
            known = ", ".join(f"`{name}`" for name in ("auto", *_NAMES))
            raise UsageError(f"unknown dtype `{asked}`", f"known are {known}")
        return DtypeChoice(_NAMES[asked], "asked for", asked=True)
    if device.startswith("cuda"):
        return DtypeChoice(torch.bfloat16, "the GPU multiplies bfloat16 at full rate")
    if has_bf16_cpu():
        why = "this CPU multiplies bfloat16, and half the bytes are read per token"
        return DtypeChoice(torch.bfloat16, why)
    why = "this CPU has no bfloat16 instructions, and torch emulates them slowly"
    return DtypeChoice(torch.float32, why)


def has_bf16_cpu() -> bool:
    """As torch sees the CPU, for it computes all but the experts, below the limit of `KT_ISA`."""
    found = (name for name, check in _CHECKS.items() if getattr(torch.cpu, check, bool)())
    return isa.multiplies_bf16(isa.usable(found, os.environ.get(isa.VARIABLE, "")))


_CHECKS = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
"""Feature → torch's own question for it."""
