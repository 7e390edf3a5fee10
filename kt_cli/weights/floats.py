"""Float formats that numpy lacks, as integer arrays: bf16 in uint16; fp8, fp4 and e8m0 in uint8."""

from kt_moe.formats.floats import E2M1, Array, Bits, Bytes, Floats
from kt_moe.formats.floats import from_bf16 as bf16_to_float32
from kt_moe.formats.floats import from_e4m3 as e4m3_to_float32
from kt_moe.formats.floats import from_e5m2 as e5m2_to_float32
from kt_moe.formats.floats import from_e8m0 as e8m0_to_float32
from kt_moe.formats.floats import to_bf16 as float32_to_bf16

__all__ = [
    "E2M1",
    "Array",
    "Bits",
    "Bytes",
    "Floats",
    "bf16_to_float32",
    "e4m3_to_float32",
    "e5m2_to_float32",
    "e8m0_to_float32",
    "float32_to_bf16",
]
