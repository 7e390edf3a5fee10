"""What helps when our kernels cannot be used."""

from __future__ import annotations


def remedy(why: str) -> str:
    """For the reason that `kt_moe.why` gives; empty where nothing helps on this CPU."""
    if "KT_ISA" in why:
        return "run `unset KT_ISA`, or set it to a variant that this CPU has"
    if "this CPU lacks" in why:
        return ""
    return "install a C++ compiler, then `pip install --force-reinstall --no-deps kt-cli`"
