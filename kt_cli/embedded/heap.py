"""The heap of glibc, which returns freed memory to the system only when it is told to."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Free pages go to the system, those in the middle of the heap too; nothing without glibc.

    Limits set at the start (`MALLOC_MMAP_THRESHOLD_`) would do the same at every step: each buffer
    of a layer would be a fresh mapping, which made decode half as fast with AMX.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
