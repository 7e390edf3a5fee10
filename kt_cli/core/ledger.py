"""Lines of the ledger that every engine shares: weights by class, and pools from a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model, TensorClass
from kt_cli.core.plan import Item, Pool
from kt_cli.core.units import gb, params

GROUPS: Mapping[str, tuple[TensorClass, ...]] = {
    "attention": ("attention",),
    "dense MLP": ("dense_mlp",),
    "shared experts": ("shared_experts",),
    "embedding": ("embedding", "lm_head"),
    "router, norms": ("router", "norm", "other"),
    "vision": ("vision",),
    "draft": ("draft",),
}
"""Everything but the routed experts, as the ledger's lines name it."""


def parameters_of(model: Model, classes: Sequence[TensorClass]) -> int:
    """Counted where the checkpoint tells, else from bytes at two bytes a weight."""
    if model.parameters:
        return sum(model.parameters.get(c, 0) for c in classes)
    return sum(model.bytes.get(c, 0) for c in classes) // 2


def computed_items(model: Model, width: float, dtype: str) -> list[Item]:
    """Non-expert weights of the language model, held in the compute type."""
    items = []
    for name, classes in GROUPS.items():
        count = parameters_of(model, classes)
        if count and name not in ("vision", "draft"):
            items.append(Item(name, int(count * width), f"{params(count)} × {width:g} B ({dtype})"))
    return items


def expert_item(model: Model, width: float, form: str) -> Item | None:
    count = parameters_of(model, ("routed_experts",))
    if not count:
        return None
    return Item("experts", int(count * width), f"{params(count)} × {width:g} B ({form})")


def ram_pool(machine: Machine, items: Sequence[Item], margin: int) -> Pool:
    label = machine.cpu.model
    memory = machine.memory
    return Pool("RAM", memory.usable, memory.available, tuple(items), margin, label)


def gpu_pool(gpu: Gpu, items: Sequence[Item], margin: int) -> Pool:
    return Pool(f"GPU{gpu.index}", gpu.memory, gpu.free, tuple(items), margin, gpu.name)


def missing(pool: Pool) -> int:
    """Bytes short on an idle machine: what no closing of other programs would give."""
    return max(0, pool.used + pool.margin - pool.capacity)


def sum_text(pool: Pool) -> str:
    return f"needs {gb(pool.used + pool.margin)}, has {gb(pool.capacity)}"
