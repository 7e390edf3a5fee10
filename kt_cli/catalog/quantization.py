"""How a checkpoint says that it is quantised, and what a quantised matrix then takes on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from kt_cli.catalog.config import Config
from kt_cli.core.model import Quantization
from kt_cli.errors import KtError

DTYPES: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
METHODS = ("fp8", "compressed-tensors", "gptq", "awq", "mxfp4", "mxfp8", "modelopt")


@dataclass(frozen=True, slots=True)
class Scheme:
    """Applies to every linear layer but routers, the head and what `exempt` names."""

    quantization: Quantization
    exempt: tuple[str, ...] = ()

    def applies(self, module: str) -> bool:
        return not any(_names(pattern, module) for pattern in self.exempt)


def _names(pattern: str, module: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern[3:], module) is not None
    wanted = re.escape(pattern).replace(r"\*", ".*")
    return re.search(rf"(^|\.){wanted}(\Z|\.)", module) is not None


def model_dtype(config: Config) -> str:
    name = config.text("torch_dtype", "dtype") or str(
        config.outer.get("torch_dtype") or config.outer.get("dtype") or "bfloat16"
    )
    return DTYPES.get(name, name)


def read_scheme(config: Config) -> Scheme | None:
    """None when the configuration names no quantisation. Raises KtError for an unknown one."""
    values = config.part("quantization_config") or config.part("compression_config")
    if not values:
        return None
    method = str(values.get("quant_method") or "")
    if method not in METHODS:
        raise KtError(
            f"cannot read {config.where}",
            f"the quantisation method {method!r} is not known; known are {', '.join(METHODS)}",
            "take another quantisation of the model",
        )
    exempt = values.get("modules_to_not_convert") or values.get("ignore") or ()
    return Scheme(_READERS[method](values, config), tuple(str(name) for name in exempt))


def _fp8(values: Mapping[str, Any], config: Config) -> Quantization:
    block = values.get("weight_block_size")
    details = "e8m0 scales" if values.get("scale_fmt") == "ue8m0" and _v4(config) else ""
    if block:
        return Quantization("fp8", 8, int(block[-1]), details)
    return Quantization("fp8_channel", 8)


def _v4(config: Config) -> bool:
    return config.model_type == "deepseek_v4"


def _compressed(values: Mapping[str, Any], config: Config) -> Quantization:
    groups = list((values.get("config_groups") or {}).values())
    weights = groups[0].get("weights") if groups else None
    if len(groups) != 1 or not weights:
        raise KtError(f"cannot read {config.where}", f"it has {len(groups)} groups of quantisation")
    bits, group = int(weights["num_bits"]), int(weights.get("group_size") or 0)
    kind = (weights.get("type", "int"), bits, weights.get("strategy"))
    methods: dict[tuple[Any, ...], Quantization] = {
        ("int", 4, "group"): Quantization("int4", 4, group),
        ("int", 4, "channel"): Quantization("int4", 4, 0),
        ("int", 8, "channel"): Quantization("int8", 8),
        ("int", 8, "group"): Quantization("int8", 8, group),
        ("float", 8, "channel"): Quantization("fp8_channel", 8),
        ("float", 8, "tensor"): Quantization("fp8_tensor", 8),
        ("float", 8, "block"): Quantization("fp8", 8, _last(weights.get("block_structure"))),
        ("float", 4, "tensor_group"): Quantization("nvfp4", 4, group or 16),
        ("float", 4, "group"): Quantization("mxfp4", 4, group or 32),
    }
    if kind not in methods:
        raise KtError(f"cannot read {config.where}", f"weights of {kind} are not known")
    return replace(
        methods[kind],
        act_order=weights.get("actorder") in ("group", True),
        zero_points=kind[0] == "int" and weights.get("symmetric") is False,
    )


def _last(block: Any) -> int:
    return int(block[-1]) if isinstance(block, list) else 128


def _gptq(values: Mapping[str, Any], config: Config) -> Quantization:
    bits, group = int(values["bits"]), int(values["group_size"])
    order, symmetric = bool(values.get("desc_act")), values.get("sym") is not False
    return Quantization(
        "gptq", bits, group, "act-order" if order else "", order, zero_points=not symmetric
    )


def _awq(values: Mapping[str, Any], config: Config) -> Quantization:
    return Quantization("awq", int(values["bits"]), int(values["group_size"]))


def _modelopt(values: Mapping[str, Any], config: Config) -> Quantization:
    algorithm = str(values.get("quant_algo") or "").upper()
    if algorithm == "NVFP4":
        return Quantization("nvfp4", 4, int(values.get("group_size") or 16))
    if algorithm == "FP8":
        return Quantization("fp8_tensor", 8)
    raise KtError(f"cannot read {config.where}", f"modelopt's {algorithm!r} is not known")


_READERS: Mapping[str, Callable[[Mapping[str, Any], Config], Quantization]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
    "mxfp4": lambda values, config: Quantization("mxfp4", 4, 32),
    "mxfp8": lambda values, config: Quantization("mxfp8", 8, 32),
    "modelopt": _modelopt,
}


def expert_quantization(scheme: Scheme | None, config: Config) -> Quantization | None:
    """DeepSeek-V4 keeps its experts in fp4 beside fp8 everywhere else."""
    if scheme and config.text("expert_dtype") == "fp4":
        return Quantization("mxfp4", 4, 32, f"all but experts: {scheme.quantization.method}")
    return scheme.quantization if scheme else None


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
