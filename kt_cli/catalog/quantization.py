"""In which type a model is stored, and what a quantised matrix takes on disk."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from kt_cli.catalog.config import Config
from kt_cli.catalog.experts import expert_layers
from kt_cli.catalog.quantization_config import Scheme
from kt_cli.core.model import Quantization

DTYPES: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def model_dtype(config: Config) -> str:
    name = config.text("torch_dtype", "dtype") or config.whole.text(
        "torch_dtype", "dtype", default="bfloat16"
    )
    return DTYPES.get(name, name)


def expert_quantization(scheme: Scheme | None, config: Config) -> Quantization | None:
    """That of the first experts. DeepSeek-V4 keeps its experts in fp4 beside fp8 elsewhere."""
    if scheme is None:
        return None
    if config.text("expert_dtype") == "fp4":
        rest = scheme.default.method if scheme.default else "not quantised"
        return Quantization("mxfp4", 4, 32, f"all but experts: {rest}")
    layer = next(iter(expert_layers(config)), 0)
    return scheme.of(f"model.layers.{layer}.mlp.experts.0.up_proj")


def stored_bytes(shape: tuple[int, ...], how: Quantization) -> int:
    """A matrix [..., rows, columns] with its scales, as the usual writers store it."""
    rows, columns = shape[-2:]
    count = prod(shape[:-2])
    return count * (rows * columns * how.bits // 8 + _overhead(rows, columns, how))


def _overhead(rows: int, columns: int, how: Quantization) -> int:
    """GPTQ and AWQ store zero points always, and GPTQ every column's group."""
    groups = -(-columns // how.group) if how.group > 0 else 1
    zeros = rows * groups * how.bits // 8
    more = (zeros if how.zero_points else 0) + (4 * columns if how.act_order else 0)
    scales = {
        "fp8": groups * -(-rows // (how.group or rows)) * (1 if how.details else 4),
        "fp8_channel": 2 * rows,
        "fp8_tensor": 4,
        "int8": 2 * rows * groups + more,
        "int4": 2 * rows * groups + 8 + more,
        "gptq": 2 * rows * groups + zeros + 4 * columns,
        "awq": 2 * rows * groups + zeros,
        "mxfp4": rows * groups,
        "mxfp8": rows * groups,
        "nvfp4": rows * groups + 8,
    }
    return scales[how.method]
