"""`quantization_config` as the usual writers write it → which module is stored how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kt_cli.catalog.config import Config
from kt_cli.catalog.module_names import REGULAR, ModuleNames
from kt_cli.core.model import Quantization
from kt_cli.documents import Record, shown

KEYS = ("quantization_config", "compression_config")
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Where AutoGPTQ, AutoAWQ and ModelOpt write it, if not into config.json."""
EXEMPT = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules", "exclude")
METHODS: Mapping[str, str] = {
    "fp8": "fp8", "fbgemm_fp8": "fp8", "compressed-tensors": "compressed-tensors",
    "compressed_tensors": "compressed-tensors", "gptq": "gptq", "gptq_marlin": "gptq",
    "awq": "awq", "awq_marlin": "awq", "mxfp4": "mxfp4", "mxfp8": "mxfp8", "modelopt": "modelopt",
    "modelopt_fp4": "modelopt", "auto-round": "auto-round", "intel/auto-round": "auto-round",
}  # fmt: skip
"""Every spelling, and what it means."""
BITS, GROUP = ("bits", "w_bit", "wbits"), ("group_size", "q_group_size", "groupsize")
WIDTHS = (2, 3, 4, 8)
MAX_GROUP = 1 << 20
Said = tuple[str, "Quantization | None"]
"""What is said of a name of modules: how they are stored, None for not quantised."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """`default` holds for every linear layer but routers, the head and what `said` names."""

    default: Quantization | None
    said: ModuleNames[tuple[Quantization | None]]
    mixed: bool = False
    """Modules that are quantised are so in different ways."""

    def of(self, module: str) -> Quantization | None:
        """None for a module that is not quantised."""
        named = self.said.find(module)
        return named[0] if named else self.default


def read_scheme(config: Config) -> Scheme | None:
    """None when the configuration names no quantisation. Raises KtError for an unknown one."""
    record = next((part for key in KEYS if (part := config.section(key)).values), None)
    if record is None:
        return None
    default, overrides = _READERS[_method(record)](record, config)
    kept: list[Said] = [(name, None) for key in EXEMPT for name in record.texts(key)]
    said = [*kept, *overrides]
    mixed = any(how not in (None, default) for _, how in said)
    names = ModuleNames(((name, (how,)) for name, how in said), record.source)
    return Scheme(default, names, mixed)


def with_quantization(
    values: Mapping[str, Any], beside: Callable[[str], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The configuration, with what a file beside it says of the quantisation where it does not.

    `beside` gives the content of such a file, empty for one that is not there.
    """
    config = Config.of(values, "config.json")
    if any(config.has(key) or config.outer.get(key) for key in KEYS):
        return values
    found = next((content for name in FILES if (content := beside(name))), None)
    return {**values, KEYS[0]: found} if found else values


def _method(record: Record) -> str:
    named = record.text("quant_method", default="")
    if not named:
        return _told_by_keys(record)
    if named.lower() not in METHODS:
        known = ", ".join(dict.fromkeys(METHODS.values()))
        raise record.source.wrong(
            f"the quantisation method {shown(named)} is not known; known are {known}"
        )
    return METHODS[named.lower()]


def _told_by_keys(record: Record) -> str:
    """Older writers leave the method out."""
    for keys, method in (
        (("config_groups",), "compressed-tensors"),
        (("quant_algo", "quantization"), "modelopt"),
        (("weight_block_size",), "fp8"),
        (("w_bit", "q_group_size", "zero_point"), "awq"),
        (BITS, "gptq"),
    ):
        if record.has(*keys):
            return method
    raise record.wrong("quant_method", None, "the name of a quantisation")


Read = tuple["Quantization | None", Iterator[Said]]


def _plain(how: Quantization) -> Callable[[Record, Config], Read]:
    return lambda record, config: (how, iter(()))


def _fp8(record: Record, config: Config) -> Read:
    block = record.integers("weight_block_size", low=1, high=MAX_GROUP, least=2)
    e8m0 = record.text("scale_fmt", default="") == "ue8m0" and config.model_type == "deepseek_v4"
    if block:
        return Quantization("fp8", 8, block[-1], "e8m0 scales" if e8m0 else ""), iter(())
    return Quantization("fp8_channel", 8), iter(())


def _gptq(record: Record, config: Config) -> Read:
    return _packed_rows("gptq", record), _dynamic(record)


def _awq(record: Record, config: Config) -> Read:
    how = Quantization("awq", _bits(record), _group(record))
    return replace(how, zero_points=record.flag("zero_point", default=True)), iter(())


def _bits(record: Record) -> int:
    found = record.integer(*BITS)
    if found not in WIDTHS:
        key = next(key for key in BITS if record.has(key))
        raise record.wrong(key, found, f"one of {', '.join(map(str, WIDTHS))}")
    return found


def _group(record: Record) -> int:
    """0 for one scale a row, which writers call -1."""
    found = record.integer(*GROUP, low=-1, high=MAX_GROUP)
    return max(0, found)


def _packed_rows(method: str, record: Record, default: Quantization | None = None) -> Quantization:
    base = default or Quantization(method, _bits(record), _group(record))
    bits = _bits(record) if record.has(*BITS) else base.bits
    group = _group(record) if record.has(*GROUP) else base.group
    order = record.flag("desc_act", default=base.act_order)
    symmetric = record.flag("sym", default=not base.zero_points)
    details = "act-order" if order else ""
    return Quantization(method, bits, group, details, order, zero_points=not symmetric)


def _dynamic(record: Record) -> Iterator[Said]:
    """GPTQModel: `-:EXPRESSION` is not quantised, `+:EXPRESSION` or EXPRESSION otherwise."""
    default = _packed_rows("gptq", record)
    for name, part in record.parts("dynamic").items():
        expression = REGULAR + name.removeprefix("+:").removeprefix("-:")
        own = None if name.startswith("-:") else _packed_rows("gptq", part, default)
        yield expression, own


def _auto_round(record: Record, config: Config) -> Read:
    kind = record.text("data_type", default="int")
    if kind.startswith("mx_fp"):
        how = Quantization("mxfp4", 4, 32) if _bits(record) == 4 else Quantization("mxfp8", 8, 32)
        return how, _extra(record, how)
    if kind.startswith("nv_fp"):
        how = Quantization("nvfp4", 4, 16)
        return how, _extra(record, how)
    packing = record.text("packing_format", "backend", default="auto_round:auto_gptq")
    how = _packed_rows("awq" if "awq" in packing else "gptq", record)
    return how, _extra(record, how)


def _extra(record: Record, default: Quantization) -> Iterator[Said]:
    for name, part in record.parts("extra_config").items():
        whole = part.integer("bits", high=32, default=default.bits) >= 16
        pattern = name if name.replace(".", "").replace("_", "").isalnum() else REGULAR + name
        yield pattern, None if whole else _packed_rows(default.method, part, default)


def _compressed(record: Record, config: Config) -> Read:
    """Groups of modules; the one for all linear layers is the default."""
    groups = record.parts("config_groups")
    said: list[Said] = []
    for part in groups.values():
        how = _compressed_weights(part.part("weights"))
        said += [(target, how) for target in part.texts("targets") or ("Linear",)]
    if not said:
        raise record.wrong("config_groups", record.raw("config_groups"), "a group of modules")
    default = next((how for target, how in said if target == "Linear"), None)
    return default, iter([(target, how) for target, how in said if target != "Linear"])


def _compressed_weights(weights: Record) -> Quantization:
    bits, group = weights.integer("num_bits"), weights.integer(*GROUP[:1], low=-1, default=0)
    kind, strategy = weights.text("type", default="int"), weights.text("strategy", default="")
    strategy = strategy or ("group" if group > 0 else "channel")
    group = max(0, group)
    known: dict[tuple[Any, ...], Quantization] = {
        ("int", 4, "group"): Quantization("int4", 4, group),
        ("int", 4, "channel"): Quantization("int4", 4, 0),
        ("int", 8, "channel"): Quantization("int8", 8),
        ("int", 8, "group"): Quantization("int8", 8, group),
        ("float", 8, "channel"): Quantization("fp8_channel", 8),
        ("float", 8, "tensor"): Quantization("fp8_tensor", 8),
        ("float", 8, "block"): Quantization("fp8", 8, _last(weights)),
        ("float", 4, "tensor_group"): Quantization("nvfp4", 4, group or 16),
        ("float", 4, "group"): Quantization("mxfp4", 4, group or 32),
    }
    if (kind, bits, strategy) not in known:
        raise weights.source.wrong(f"weights of {shown((kind, bits, strategy))} are not known")
    order = weights.raw("actorder")
    return replace(
        known[kind, bits, strategy],
        act_order=order is True or order == "group",
        zero_points=kind == "int" and not weights.flag("symmetric", default=True),
    )


def _last(weights: Record) -> int:
    """`block_structure` is a list, in older files a text such as 128x128."""
    found = weights.raw("block_structure")
    if isinstance(found, str) and all(part.isdecimal() for part in found.split("x")):
        return max(1, min(int(found.split("x")[-1][:9]), MAX_GROUP))
    block = weights.integers("block_structure", low=1, high=MAX_GROUP, least=1)
    return block[-1] if block else 128


def _modelopt(record: Record, config: Config) -> Read:
    """`hf_quant_config.json` has it all one level further down."""
    inner = record if record.has("quant_algo") else record.part("quantization")
    mixed = inner.parts("quantized_layers")
    layers = [(name, _modelopt_weights(part)) for name, part in mixed.items()]
    kept: list[Said] = [(name, None) for name in inner.texts("exclude_modules")]
    if inner.text("quant_algo", default="").upper() == "MIXED_PRECISION":
        return None, iter([*kept, *layers])
    return _modelopt_weights(inner), iter([*kept, *layers])


def _modelopt_weights(record: Record) -> Quantization:
    algorithm = record.text("quant_algo").upper()
    group = record.integer("group_size", low=1, high=MAX_GROUP, default=16)
    if "NVFP4" in algorithm:
        return Quantization("nvfp4", 4, group)
    if algorithm == "FP8":
        return Quantization("fp8_tensor", 8)
    if algorithm == "FP8_PB_WO":
        return Quantization("fp8", 8, 128)
    raise record.source.wrong(f"modelopt's {shown(algorithm)} is not known")


_READERS: Mapping[str, Callable[[Record, Config], Read]] = {
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "mxfp4": _plain(Quantization("mxfp4", 4, 32)),
    "mxfp8": _plain(Quantization("mxfp8", 8, 32)),
    "modelopt": _modelopt,
}
