"""Parameters that a preset counts by class, for families whose tensors are not computed here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast, get_args

from kt_cli.catalog.config import Config
from kt_cli.catalog.experts import expert_layers
from kt_cli.catalog.stock import Stock
from kt_cli.core.model import Experts, TensorClass
from kt_cli.documents import shown

KEY = "counted_parameters"
COLUMNS = 128
"""A counted class has no shape; blocks of a quantisation are counted over rows of this width."""
_NAMES: dict[TensorClass, str] = {
    "attention": "self_attn.counted",
    "dense_mlp": "mlp.counted",
    "shared_experts": "mlp.shared_experts.counted",
    "draft": "mlp.experts.draft",
}
"""Classes of linear layers, which a quantisation may pack; a drafter is mostly experts."""


def counted_stocks(config: Config, experts: Experts | None) -> Iterator[Stock]:
    """Raises KtError for a class that does not exist."""
    counted = config.section(KEY)
    for name in counted.values:
        if name not in get_args(TensorClass):
            raise config.wrong(f"{shown(name)} is no class of tensors that can be counted")
        kind, count = cast(TensorClass, name), counted.integer(name)
        rows, matrix = -(-count // COLUMNS), kind in _NAMES
        shape = (rows, COLUMNS) if matrix else (count,)
        yield Stock(kind, _NAMES.get(kind, name), shape, 1, matrix)
    if experts and "routed_experts" not in config.part(KEY):
        yield from _routed(config, experts)


def _routed(config: Config, experts: Experts) -> Iterator[Stock]:
    times, inner = len(expert_layers(config)) * experts.count, experts.intermediate
    for part in ("gate_proj", "up_proj") if experts.gated else ("up_proj",):
        yield Stock("routed_experts", f"mlp.experts.0.{part}", (inner, experts.hidden), times)
    yield Stock("routed_experts", "mlp.experts.0.down_proj", (experts.hidden, inner), times)
