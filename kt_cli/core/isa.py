"""Which vector instructions may be used: what the CPU has, less what `KT_ISA` leaves out.

The kernels, the probe, the planner and the choice of a compute type all follow this one limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

VARIABLE = "KT_ISA"
"""Names the best variant of the kernels that may run: `avx2`, `avx512`, `amx` or one of `KEYS`."""

KEYS: Mapping[str, str] = {
    "avx2": "avx2",
    "avx512_base": "avx512bw",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx": "amx_int8",
}
"""Variant of the kernels, slowest first → the feature that tells it from the one before."""

_WITHOUT: Mapping[str, tuple[str, ...]] = {
    "avx2": ("amx", "avx512"),
    "avx512_base": ("amx", "avx512_fp16", "avx512_bf16", "avx512_vnni"),
    "avx512_vnni": ("amx", "avx512_fp16", "avx512_bf16"),
    "avx512_bf16": ("amx", "avx512_fp16"),
    "avx512": ("amx", "avx512_fp16"),
}
"""Limit → starts of the features that a CPU of that kind lacks."""

_TORCH: Mapping[str, tuple[str, str]] = {  # of PyTorch itself and of its MKL, of its oneDNN
    "avx2": ("avx2", "AVX2"),
    "avx512_base": ("avx512", "AVX512_CORE"),
    "avx512_vnni": ("avx512", "AVX512_CORE_VNNI"),
    "avx512_bf16": ("avx512", "AVX512_CORE_BF16"),
    "avx512": ("avx512", "AVX512_CORE_BF16"),
}


def withheld(features: Iterable[str], limit: str) -> tuple[str, ...]:
    """Those that the limit leaves unused; an unknown limit leaves all in use."""
    without = _WITHOUT.get(limit, ())
    return tuple(name for name in features if name.startswith(without)) if without else ()


def usable(features: Iterable[str], limit: str) -> tuple[str, ...]:
    listed = tuple(features)
    lost = withheld(listed, limit)
    return tuple(name for name in listed if name not in lost)


def variant(features: Iterable[str]) -> str:
    """The fastest variant of the kernels; empty where none runs."""
    listed, best = set(features), ""
    for name, key in KEYS.items():
        if key not in listed:
            break
        best = name
    return best


def multiplies_bf16(features: Iterable[str]) -> bool:
    """In hardware, so that halving the bytes costs no time."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(features)


def torch_environment(limit: str) -> dict[str, str]:
    """What keeps PyTorch, its oneDNN and its MKL below the same limit."""
    if limit not in _TORCH:
        return {}
    aten, onednn = _TORCH[limit]
    mkl = {"MKL_ENABLE_INSTRUCTIONS": aten.upper()}
    return {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn, **mkl}
