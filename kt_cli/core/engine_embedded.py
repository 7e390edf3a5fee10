"""The embedded engine as the planner sees it."""

from __future__ import annotations

from kt_cli.core.embedded_ledger import Case as EmbeddedCase
from kt_cli.core.engine import Case, Engine
from kt_cli.core.packing import disk_item
from kt_cli.core.plan import Item, Plan
from kt_cli.core.plan_embedded import plan_embedded
from kt_cli.core.sglang_choice import starting


class EmbeddedPlanning(Engine):
    name = "embedded"
    title = "the embedded engine"
    way_out = "the embedded engine, all on the CPU"

    def plan(self, case: Case, *, alternatives: bool = False) -> Plan:
        own = EmbeddedCase(case.machine, case.model, case.wishes, case.facts.embedded)
        return plan_embedded(own)

    def unknown(self, case: Case) -> str:
        return starting(case.facts.embedded.absent, case.model.architecture)

    def written(self, case: Case, plan: Plan) -> tuple[Item, ...]:
        packs = disk_item(plan.value("pack_cache"), plan.pools)
        return (packs,) if packs else ()
