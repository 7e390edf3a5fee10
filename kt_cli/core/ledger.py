"""Lines of the ledger that every engine shares: weights by class, and pools from a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model, TensorClass
from kt_cli.core.plan import Item, Kind, Pool
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


def kind_of(group: str) -> Kind:
    """Of a group's line."""
    kinds = {"embedding": Kind.EMBEDDING, "vision": Kind.VISION, "draft": Kind.DRAFT}
    return kinds.get(group, Kind.WEIGHTS)


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
            formula = f"{params(count)} × {width:g} B ({dtype})"
            items.append(Item(name, int(count * width), formula, kind_of(name)))
    return items


def expert_item(model: Model, width: float, form: str) -> Item | None:
    count = parameters_of(model, ("routed_experts",))
    if not count:
        return None
    formula = f"{params(count)} × {width:g} B ({form})"
    return Item("experts", int(count * width), formula, Kind.EXPERTS)


def ram_pool(machine: Machine, items: Sequence[Item], margin: int) -> Pool:
    label = machine.cpu.model
    memory = machine.memory
    return Pool("RAM", memory.usable, memory.available, tuple(items), margin, label)


def gpu_pool(gpu: Gpu, items: Sequence[Item], margin: int) -> Pool:
    return Pool(f"GPU{gpu.index}", gpu.memory, gpu.free, tuple(items), margin, gpu.name)


def missing(pool: Pool) -> int:
    """Bytes short on an idle machine: what no closing of other programs would give."""
    return pool.short


def sum_text(pool: Pool) -> str:
    return f"needs {gb(pool.used + pool.margin)}, has {gb(pool.capacity)}"


# Memory that several pools share


def spread(pools: Sequence[Pool], items: Sequence[Item]) -> list[Pool]:
    """`items` may lie on any node: those with experts first, then wherever there is room."""
    found = list(pools)
    for item in items:
        left = item.bytes
        for i in sorted(range(len(found)), key=lambda i: not found[i].items):
            room = max(0, found[i].capacity - found[i].used - found[i].margin)
            part = min(left, room)
            if part:
                found[i] = _with(found[i], replace(item, bytes=part))
                left -= part
        if left and found:
            found[0] = _with(found[0], replace(item, bytes=left))
    return found


def _with(pool: Pool, item: Item) -> Pool:
    """A part of an item that the pool has already is added to it."""
    same = next((i for i in pool.items if i.name == item.name), None)
    if same is None:
        return replace(pool, items=(*pool.items, item))
    whole = replace(same, bytes=same.bytes + item.bytes)
    return replace(pool, items=tuple(whole if i is same else i for i in pool.items))


def capped(pools: Sequence[Pool], limit: int) -> list[Pool]:
    """A limit on all of them together: what it leaves is shared, no pool is cut by its size."""
    if sum(p.capacity for p in pools) <= limit:
        return list(pools)
    needs = [p.used + p.margin for p in pools]
    share = (limit - sum(needs)) // max(1, len(pools))
    return [
        replace(p, capacity=min(p.capacity, need + share), free=min(p.free, need + share))
        for p, need in zip(pools, needs, strict=True)
    ]


def freed(pools: Sequence[Pool], available: int) -> list[Pool]:
    """The same for what is available now, over all of them together."""
    if sum(p.free for p in pools) <= available:
        return list(pools)
    needs = [p.used + p.margin for p in pools]
    share = (available - sum(needs)) // max(1, len(pools))
    return [
        replace(p, free=max(0, min(p.free, need + share)))
        for p, need in zip(pools, needs, strict=True)
    ]
