"""The compiled module, or the reason why it is not there.

Importing this never fails. `available` and `why` tell whether the kernels can be used; `core()`
raises if they cannot.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType


class KernelsUnavailable(RuntimeError):
    """The compiled kernels are missing or cannot run on this CPU."""


class IsaError(KernelsUnavailable):
    """This CPU lacks instructions that were asked for."""


def _load() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("kt_moe._core"), ""
    except ImportError as error:
        return None, f"the compiled module kt_moe._core is missing: {error}"


def _start(module: ModuleType | None, missing: str) -> KernelsUnavailable | None:
    """Choose the variant before any of its instructions can run."""
    if module is None:
        return KernelsUnavailable(missing)
    try:
        module.use_isa(os.environ.get("KT_ISA", ""))
    except module.IsaError as error:
        return IsaError(str(error))
    return None


_module, _missing = _load()
_failure = _start(_module, _missing)
available: bool = _failure is None
why: str = str(_failure) if _failure is not None else ""


def loaded() -> ModuleType | None:
    """The compiled module if it could be imported, even where no variant runs."""
    return _module


def core() -> ModuleType:
    """The compiled module, ready to compute."""
    if _failure is not None:
        raise type(_failure)(str(_failure))
    if _module is None:
        raise KernelsUnavailable(_missing)
    return _module
