"""A configuration, and the tensors that come with it or that it implies, become a `Model`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kt_cli.catalog.attention import attention_notes, read_attention
from kt_cli.catalog.config import Config
from kt_cli.catalog.counted import KEY, counted_stocks
from kt_cli.catalog.experts import expert_layers, read_experts
from kt_cli.catalog.families import FAMILIES, Family, family_name, family_of
from kt_cli.catalog.held import INTEGERS, expert_dtype, parameters_of, stored_quantization
from kt_cli.catalog.inventory import inventory
from kt_cli.catalog.lookups import lookup_rows, prefill_layers, stored_lookup
from kt_cli.catalog.naming import classify
from kt_cli.catalog.quantization import expert_quantization, model_dtype, stored_bytes
from kt_cli.catalog.quantization_config import Scheme, read_scheme
from kt_cli.catalog.stock import Stock
from kt_cli.catalog.verify import require_experts
from kt_cli.catalog.vision_stock import vision_stock
from kt_cli.core.model import Experts, Model, Quantization, TensorClass
from kt_cli.errors import KtError
from kt_cli.modelfiles import CONFIG
from kt_cli.weights.headers import TensorInfo

WIDTHS: Mapping[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4}
CLASSES: tuple[TensorClass, ...] = (
    "attention", "dense_mlp", "shared_experts", "routed_experts", "router", "embedding",
    "lm_head", "norm", "vision", "draft", "lookup", "other",
)  # fmt: skip


@dataclass
class Tally:
    """Bytes and parameters by class."""

    bytes: Counter[TensorClass]
    parameters: Counter[TensorClass]

    def add(self, kind: TensorClass, nbytes: int, parameters: int) -> None:
        self.bytes[kind] += nbytes
        self.parameters[kind] += parameters


def from_tensors(
    values: Mapping[str, Any], tensors: Iterable[TensorInfo], name: str, where: str
) -> Model:
    """Exact bytes. Raises KtError when tensors and configuration do not agree."""
    config = Config.of(values, f"{where}/{CONFIG}")
    family = family_of(config) or Family(width=_generic_width(config))
    experts, found = read_experts(config, family), list(tensors)
    require_experts(found, experts, where)
    scheme = read_scheme(config)
    quantization = stored_quantization(found, expert_quantization(scheme, config))
    tally, strange = Tally(Counter(), Counter()), []
    layers = config.number("num_hidden_layers")
    for info in found:
        kind = classify(info.name, layers)
        if kind is None:
            strange.append(info.name)
        how = _stored_as(info.name, kind, scheme, quantization)
        tally.add(kind or "other", info.nbytes, parameters_of(info, how))
    quantization = quantization or _unquantised(found, config)
    notes = _strange(strange) + _unknown_family(config)
    return _model(config, family, experts, tally, quantization, name, notes, exact=True)


def _stored_as(
    name: str, kind: TensorClass | None, scheme: Scheme | None, experts: Quantization | None
) -> Quantization | None:
    if scheme is None or (kind == "routed_experts" and not scheme.mixed):
        return experts
    own = scheme.of(name.rpartition(".")[0]) if scheme.mixed else scheme.default
    return own or experts


def _unquantised(tensors: Sequence[TensorInfo], config: Config) -> Quantization:
    dtype = expert_dtype(tensors)
    if dtype.upper() in INTEGERS:
        why = f"its experts are stored as {dtype.upper()}, and nothing says how to read that"
        raise config.wrong(f"{why}: it has no `quantization_config`")
    return Quantization(dtype or model_dtype(config))


def from_config(values: Mapping[str, Any], name: str) -> Model:
    """Bytes computed from a configuration. Raises KtError for a family that is not known."""
    config = Config.of(values, f"the configuration of {name}")
    family = family_of(config)
    if family is None and config.part(KEY):
        family = Family(width=_generic_width(config))
    if family is None:
        raise KtError(
            f"cannot compute the size of {name}",
            f"`model_type` {config.model_type!r} is none of {', '.join(sorted(FAMILIES))}",
            "give the folder or repository of the model, whose tensors tell",
        )
    experts, scheme = read_experts(config, family), read_scheme(config)
    routed = expert_quantization(scheme, config)
    tally, width = Tally(Counter(), Counter()), WIDTHS.get(model_dtype(config), 2)
    for stock in _stocks(config, family, experts):
        if stock.kind == "lookup":
            nbytes = stored_lookup(config, stock.parameters, width, scheme is not None)
        else:
            nbytes = stock.times * _stock_bytes(stock, scheme, routed, width)
        tally.add(stock.kind, nbytes, stock.parameters)
    quantization = routed or Quantization(model_dtype(config), 8 * width)
    return _model(config, family, experts, tally, quantization, name, (), exact=False)


def _stocks(config: Config, family: Family, experts: Experts | None) -> Iterator[Stock]:
    """Computed ones, but for classes that are counted; all counted where the family is unknown."""
    counted = config.part(KEY)
    if family_of(config):
        computed = inventory(config, family, experts)
        yield from (stock for stock in computed if stock.kind not in counted)
        yield from counted_stocks(config, None)
    else:
        yield from counted_stocks(config, experts)
        if "vision" not in counted:
            yield from vision_stock(config)


def _stock_bytes(
    stock: Stock, scheme: Scheme | None, routed: Quantization | None, width: int
) -> int:
    expert = stock.name.startswith("mlp.experts")
    how = scheme.of(f"model.layers.0.{stock.name}") if scheme and stock.matrix else None
    if how:
        return stored_bytes(stock.shape, routed if expert and routed else how)
    values = stock.parameters // stock.times if stock.times else 0
    return values * (stock.width or width)


def _generic_width(config: Config) -> str:
    return "moe_intermediate_size" if config.has("moe_intermediate_size") else "intermediate_size"


def _unknown_family(config: Config) -> tuple[str, ...]:
    if family_of(config):
        return ()
    return (f"`model_type` {config.model_type} is read by the general rules",)


def _strange(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{len(names)} tensors of no known class are counted as other, such as {names[0]}",)


def _model(
    config: Config,
    family: Family,
    experts: Experts | None,
    tally: Tally,
    quantization: Quantization,
    name: str,
    notes: tuple[str, ...],
    exact: bool,
) -> Model:
    layers = config.number("num_hidden_layers")
    dense = layers - (len(expert_layers(config)) if experts else 0)
    rows, row = lookup_rows(config)
    table = tally.parameters["lookup"]
    return Model(
        name=name,
        architecture=config.architecture or family_name(config),
        layers=layers,
        hidden=config.number("hidden_size"),
        vocab=config.number("vocab_size"),
        context=config.number("max_position_embeddings", "max_sequence_length"),
        dtype=model_dtype(config),
        attention=read_attention(config),
        bytes={kind: tally.bytes[kind] for kind in CLASSES if tally.bytes[kind]},
        experts=experts,
        quantization=quantization,
        parameters={kind: tally.parameters[kind] for kind in CLASSES if tally.parameters[kind]},
        exact=exact,
        intermediate=config.number(family.dense, default=0) if dense else 0,
        remote_code="auto_map" in config.outer,
        lookup_rows=rows if table else 0,
        lookup_row_bytes=row * tally.bytes["lookup"] // table if table else 0,
        prefill_layers=prefill_layers(config),
        notes=notes + attention_notes(config),
    )
