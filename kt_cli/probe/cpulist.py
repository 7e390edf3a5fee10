"""The kernel's CPU lists: `0-3,8,16-30:2/4` (Documentation/admin-guide/kernel-parameters)."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 1 << 16
"""More CPUs than any kernel is built for (NR_CPUS: 8192 on x86)."""


def parse(text: str) -> tuple[int, ...]:
    """Sorted CPU numbers; ValueError for what the kernel would not write."""
    cpus: set[int] = set()
    for part in text.replace("\n", ",").split(","):
        if part.strip():
            cpus.update(_range(part.strip()))
    return tuple(sorted(cpus))


def lenient(text: str) -> tuple[int, ...]:
    """As `parse`, but empty for unreadable text: a probe reads what there is."""
    try:
        return parse(text)
    except ValueError:
        return ()


def format(cpus: Iterable[int]) -> str:
    """The shortest plain list: format([3, 0, 1, 2, 8]) == "0-3,8"."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _range(part: str) -> Iterable[int]:
    """One `N`, `A-B` or `A-B:used/group`."""
    span, _, step = part.partition(":")
    first, dash, last = span.partition("-")
    low = _number(first)
    high = _number(last) if dash else low
    if high < low:
        raise ValueError(f"CPU range {part!r} runs backwards")
    if not step:
        return range(low, high + 1)
    used, _, group = step.partition("/")
    size = _number(group)
    if not dash or size == 0:
        raise ValueError(f"CPU range {part!r} has a wrong stride")
    return (cpu for cpu in range(low, high + 1) if (cpu - low) % size < _number(used))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8 and int(text) < MOST):
        raise ValueError(f"{text!r} is not a CPU number")
    return int(text)
