"""Sizes and counts as the planner's formulas and reasons write them."""

from __future__ import annotations

GB = 10**9
MB = 10**6
MIB = 2**20
GIB = 2**30

DTYPE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}


class Size(int):
    """Bytes that remember the unit they were given in."""

    text: str

    def __new__(cls, value: int, text: str = "") -> Size:
        self = super().__new__(cls, value)
        self.text = text or gb(value)
        return self


def gb(count: float) -> str:
    """Decimal, three significant digits: 0.94 GB, 12.3 GB, 1.31 TB."""
    if abs(count) >= 1e12:
        return f"{count / 1e12:.2f} TB"
    if abs(count) >= 1e11:
        return f"{count / 1e9:.0f} GB"
    if abs(count) >= 1e10:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e9:.2f} GB" if abs(count) >= 1e9 else f"{count / 1e6:.0f} MB"


def tokens(count: int) -> str:
    """32768 as 32k, anything else in full."""
    return f"{count // 1024}k" if count >= 1024 and count % 1024 == 0 else str(count)


def params(count: float) -> str:
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def round_down(value: int, step: int) -> int:
    return value // step * step
