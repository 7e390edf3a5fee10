"""What every format offers: a shape and float32 weights; some also integers with scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kt_moe.formats.codes import Codes, finite
from kt_moe.formats.errors import FormatError
from kt_moe.formats.floats import Array, Floats, dims, from_bf16


class Matrix(Protocol):
    """One expert's matrix [out, in] in some format."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def decode(self) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Plain:
    """float32, float16 or float64 as they are; uint16 holds the bits of bf16."""

    weight: Array

    def __post_init__(self) -> None:
        if self.weight.ndim != 2:
            raise FormatError(f"a weight has shape {self.weight.shape}, not [rows, columns]")
        if self.weight.dtype.kind != "f" and self.weight.dtype != np.uint16:
            raise FormatError(f"a plain weight is {self.weight.dtype}, not a float")

    @property
    def shape(self) -> tuple[int, int]:
        return dims(self.weight)

    def decode(self) -> Floats:
        bits = self.weight.dtype == np.uint16
        out = from_bf16(self.weight) if bits else self.weight.astype(np.float32)
        finite(out, "weight")
        return out


def codes_of(matrix: Matrix) -> Codes | None:
    """The matrix as integers with scales where its format is one of those, without any loss."""
    make = getattr(matrix, "codes", None)
    return None if make is None else make()


def relative_error(weights: Floats, approximation: Floats) -> float:
    """‖approximation − weights‖ / ‖weights‖, 0 where both are zero."""
    size = float(np.linalg.norm(weights))
    return float(np.linalg.norm(approximation - weights)) / size if size else 0.0
