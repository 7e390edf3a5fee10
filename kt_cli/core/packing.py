"""Whether packed experts are kept on disk, so that later starts map them instead of packing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kt_cli.core.plan import Decision, Item, Kind, Pool
from kt_cli.core.units import GB, gb

if TYPE_CHECKING:
    from kt_cli.core.embedded_ledger import Case, Choice

SPARE = 10 * GB
"""Disk that packs leave free whatever is asked."""
PLENTY = 30 * GB
"""Disk that is left free unless packs are asked for."""
WORTH_S = 3.0
"""Seconds of packing at each start from which the disk space is worth it."""

OFF, WRITE, MAP = "off", "write", "map"


def packed_before(case: Case, choice: Choice) -> bool:
    """Whether every layer was packed at an earlier start, and packs are used."""
    experts, (layers, _) = case.model.experts, case.facts.packed.get(choice.method, (0, 0))
    if experts is None or choice.backend != "kt_moe" or case.wishes.get("pack_cache") == OFF:
        return False
    return 0 < len(experts.layers) <= layers


def decide(case: Case, choice: Choice, size: int, threads: int) -> Decision:
    """`size`: bytes of the packed experts."""
    wish = case.wishes.get("pack_cache")
    if choice.backend != "kt_moe" or not size:
        return Decision("pack_cache", OFF, "torch's operator packs nothing")
    if wish == OFF:
        return case.wishes.settle("pack_cache", "pack_cache", OFF, "")
    if packed_before(case, choice):
        return Decision("pack_cache", MAP, "the experts were packed at an earlier start")
    why = _no_room(case, size, wish is not None)
    seconds = packing_s(case, choice, threads)
    if not why and wish is None and seconds < WORTH_S:
        why = f"packing takes {seconds:.1f} s"
    if why:
        return Decision("pack_cache", OFF, why)
    why = f"{gb(size)} of disk save about {seconds:.0f} s of packing at every later start"
    return Decision("pack_cache", WRITE, why)


def _no_room(case: Case, size: int, asked: bool) -> str:
    limit = case.wishes.get("pack_cache_size")
    if limit is not None and size > limit:
        return f"the packed experts are {gb(size)}, the limit is {gb(limit)}"
    if not case.machine.disks:
        return "" if asked else "how much disk is free is not known"
    left = case.machine.disks[0].free - size - (0 if case.model.path else case.model.total_bytes)
    spare = SPARE if asked else PLENTY
    return "" if left >= spare else f"the disk would keep less than {gb(spare)} free"


def packing_s(case: Case, choice: Choice, threads: int) -> float:
    """Seconds from the checkpoint in the page cache to packed experts; 0 where there are none."""
    if choice.backend != "kt_moe" or packed_before(case, choice):
        return 0.0
    weights = case.model.parameters.get("routed_experts", 0)
    if not weights:
        weights = case.model.bytes.get("routed_experts", 0) // 2
    facts = case.facts
    each = facts.gathering_s + facts.packing_s.get(choice.method, 1.0) / threads
    return weights / 1e9 * each


def disk_item(decision: str | None, pools: tuple[Pool, ...]) -> Item | None:
    """What the first start writes to disk."""
    size = sum(i.bytes for p in pools for i in p.items if i.kind is Kind.EXPERTS)
    if decision != WRITE:
        return None
    return Item("packed experts", size, "written at the first start, mapped at later ones")
