"""Do the experts that a checkpoint holds agree with what its configuration says of them?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kt_cli.catalog.held import expert_weights
from kt_cli.catalog.naming import Role, layer_of, role
from kt_cli.core.model import Experts
from kt_cli.errors import KtError
from kt_cli.weights.headers import TensorInfo

# Projections of one expert, by the names that checkpoints give them.
GATE = frozenset({"gate_proj", "w1", "gate"})
UP = frozenset({"up_proj", "w3", "up"})
DOWN = frozenset({"down_proj", "w2", "down"})
PLAIN = frozenset({"BF16", "F16", "F32", "F8_E4M3"})


def require_experts(tensors: Sequence[TensorInfo], experts: Experts | None, where: str) -> None:
    """Raises KtError that names the first thing that does not agree."""
    found = expert_weights(tensors)
    if experts is None:
        if found:
            raise _disagree(
                where, f"it holds experts ({found[0].name}), which config.json does not"
            )
        return
    missing = _layers_without(found, experts)
    if missing:
        raise _disagree(where, f"no tensors of known names hold the experts of layer {missing[0]}")
    _require_counts(found, experts, where)
    for info in found:
        _require_shape(info, experts, where)


def _layers_without(found: Sequence[TensorInfo], experts: Experts) -> list[int]:
    present = {layer_of(info.name) for info in found}
    return sorted(set(experts.layers) - present)


def _require_counts(found: Sequence[TensorInfo], experts: Experts, where: str) -> None:
    """Every layer has all three projections of every expert, each one as a tensor or fused."""
    gates = Counter(layer_of(info.name) for info in found if role(info.name).part in GATE)
    for layer in experts.layers:
        if gates[layer] not in (0, 1, experts.count):  # one: a tensor that holds all experts
            why = f"layer {layer} has {gates[layer]} experts, config.json says {experts.count}"
            raise _disagree(where, why)


def _require_shape(info: TensorInfo, experts: Experts, where: str) -> None:
    if info.dtype not in PLAIN:
        return  # packed: its shape depends on the format
    known = role(info.name)
    if not _fits(info.shape, known, experts):
        sizes = f"hidden {experts.hidden} and width {experts.intermediate}"
        raise _disagree(where, f"{info.name} is {list(info.shape)}, with {sizes}")


def _fits(shape: tuple[int, ...], known: Role, experts: Experts) -> bool:
    hidden, width = experts.hidden, experts.intermediate
    if known.single:
        return shape == ((hidden, width) if known.part in DOWN else (width, hidden))
    width = 2 * width if "gate_up" in known.part else width
    return shape[0] == experts.count and sorted(shape[1:]) == sorted((hidden, width))


def _disagree(where: str, why: str) -> KtError:
    return KtError(
        f"{where} does not hold what its config.json says",
        why,
        "check that both come from the same model",
    )
