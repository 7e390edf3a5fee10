"""A forward bound to its arrays, started and awaited through C functions.

For `cudaLaunchHostFunc` (or any caller of a C function with one pointer): launch `submit` once the
inputs have arrived on the CPU, `sync` before the result is copied back. Keep the object as long as
a captured graph may run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kt_moe._native import core


class HostFunction(NamedTuple):
    """Addresses of a `void (*)(void*)` and of its argument."""

    function: int
    context: int


class HostCall:
    def __init__(self, packed: Any, arrays: tuple[Any, ...]) -> None:
        """arrays: x, ids, weights, mask or None, out, as `Experts.forward` takes them. They stay
        alive as long as `bound`, which waits for what runs before it goes."""
        self.bound = packed.host_call(*arrays)
        context = int(self.bound.context())
        self.submit = HostFunction(int(core().HostCall.submit()), context)
        self.sync = HostFunction(int(core().HostCall.sync()), context)

    def check(self) -> None:
        """Raise ValueError if a call failed since the last check; its output was zeros."""
        if error := self.bound.take_error():
            raise ValueError(error)
