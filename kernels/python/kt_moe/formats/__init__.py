"""Weight formats in plain numpy: how published checkpoints hold a matrix, and back to floats.

Each format is one small class with the arrays as they stand in the file; building one checks
shapes, dtypes and scales. `decode()` gives float32, `codes()`, where a format has it, integers
with scales without loss.
"""

from kt_moe.formats.amx import AmxTiles
from kt_moe.formats.codes import Codes, int4, int8
from kt_moe.formats.errors import FormatError, UnsupportedFormat
from kt_moe.formats.fp8 import Fp8Blocks, Fp8Rows, fp8_blocks, fp8_rows
from kt_moe.formats.gguf import GgufBlocks
from kt_moe.formats.load import Loaded, to_experts
from kt_moe.formats.matrix import Matrix, Plain, codes_of, relative_error
from kt_moe.formats.mx import MxFp4, MxFp8, NvFp4, mxfp4, mxfp8, nvfp4
from kt_moe.formats.packed import Awq, Gptq, RawInt4, gptq, rawint4

__all__ = [
    "AmxTiles",
    "Awq",
    "Codes",
    "FormatError",
    "Fp8Blocks",
    "Fp8Rows",
    "GgufBlocks",
    "Gptq",
    "Loaded",
    "Matrix",
    "MxFp4",
    "MxFp8",
    "NvFp4",
    "Plain",
    "RawInt4",
    "UnsupportedFormat",
    "codes_of",
    "fp8_blocks",
    "fp8_rows",
    "gptq",
    "int4",
    "int8",
    "mxfp4",
    "mxfp8",
    "nvfp4",
    "rawint4",
    "relative_error",
    "to_experts",
]
