"""A matrix in the codes that the kernels keep: what `Experts.set_expert` keeps as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kt_moe.coding import Coding

Bytes: TypeAlias = npt.NDArray[np.uint8]
Bits: TypeAlias = npt.NDArray[np.uint16]


WITH_MINIMUM = {"int4": ("q4_1", -8), "q6_0": ("q6_1", -32)}
"""Format → the one with a minimum beside the scale, and what code 0 stands for."""


@dataclass(frozen=True, slots=True)
class Stored:
    """weight[n, k] = rows[n] · scale[n, k // group] · value(codes[n, k]) + minimum[n, k // group]

    `codes` uint8 [N, K]: 0…15, 0…63 or the bits of int8. `scales` [N, ⌈K / group⌉]: uint16 with
    the bits of fp16, or uint8 (mxfp4: e8m0 less one; nvfp4: e4m3); no columns for int8. `minima`
    bits of fp16, for q4_1 and q6_1. `rows` float32 [N], for int8 and nvfp4 (there 128 times the
    published factor).
    """

    format: str
    group: int
    codes: Bytes
    scales: npt.NDArray[Any]
    minima: Bits | None = None
    rows: npt.NDArray[np.float32] | None = None

    @property
    def coding(self) -> Coding:
        return Coding(self.format, self.group)

    def with_minimum(self) -> Stored | None:
        """The same as the format of `WITH_MINIMUM`, None where there is none or fp16 overflows."""
        if self.format not in WITH_MINIMUM:
            return None
        format_, least = WITH_MINIMUM[self.format]
        minima = np.float16(least) * self.scales.view(np.float16)
        if not np.isfinite(minima).all():
            return None
        return replace(self, format=format_, minima=minima.view(np.uint16))

    def with_group(self, group: int) -> Stored | None:
        """The same with a scale for every `group`, None where that does not divide the present."""
        times, rest = divmod(self.group, group)
        if not self.scales.shape[1] or times == 1:
            return replace(self, group=group)
        if rest:
            return None
        columns = -(-self.codes.shape[1] // group)
        minima = None if self.minima is None else _spread(self.minima, times, columns)
        scales = _spread(self.scales, times, columns)
        return replace(self, group=group, scales=scales, minima=minima)


def _spread(a: npt.NDArray[Any], times: int, columns: int) -> npt.NDArray[Any]:
    return np.ascontiguousarray(a.repeat(times, axis=1)[:, :columns])
