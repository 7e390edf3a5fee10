"""SGLang as the planner sees it: where it can serve, and where another engine does it better."""

from __future__ import annotations

from kt_cli.core.engine import Case, Engine
from kt_cli.core.methods import cpu_expert_bytes, nvidia
from kt_cli.core.plan import Fix, Item, Plan
from kt_cli.core.plan_sglang import plan_sglang
from kt_cli.core.sglang_choice import SglangCase, starting
from kt_cli.core.sglang_draft import methods, no_method
from kt_cli.core.sglang_solve import target_context


class SglangPlanning(Engine):
    """A model that no engine knows is sized for it, for it would keep it as it is stored."""

    name = "sglang"
    title = "SGLang"
    reason = "SGLang uses the GPU for the rest"
    maps_tables = True

    def plan(self, case: Case, *, alternatives: bool = False) -> Plan:
        return plan_sglang(_own(case), alternatives=alternatives)

    def unknown(self, case: Case) -> str:
        return starting(case.facts.sglang.absent, case.model.architecture)

    def obstacle(self, case: Case) -> str:
        machine = case.machine
        if not machine.gpus:
            return "no GPU; it serves on any machine"
        if not nvidia(machine):
            vendors = ", ".join(sorted({g.vendor for g in machine.gpus}))
            return f"SGLang with CPU experts runs on NVIDIA GPUs only, not on {vendors}"
        return self._missing(case) or self.unknown(case)

    def cure(self, case: Case) -> Fix | None:
        missing = nvidia(case.machine) and "installed" in self._missing(case)
        return Fix("`kt engine install sglang`", "uses the GPU") if missing else None

    def better(self, case: Case, other: Engine) -> str:
        """The other one where SGLang would compute all experts on GPUs that are too small."""
        own = _own(case)
        if methods(own, nvidia(case.machine)) != [""] or not case.model.experts:
            return ""
        plan = plan_sglang(own)
        if plan.fits and plan.value("context") >= target_context(own):
            return ""
        return no_method(own) if other.plan(case).fits else ""

    def written(self, case: Case, plan: Plan) -> tuple[Item, ...]:
        """Experts that must be converted before it can start."""
        method = case.facts.sglang.method(str(plan.value("kt_method")))
        if not method or not case.model.experts or case.wishes.fixed("weights_path"):
            return ()
        if case.model.quantization.method in method.reads:
            return ()
        size = cpu_expert_bytes(method, case.model)
        return (Item("conversion", size, f"the experts as {method.name}"),)

    def _missing(self, case: Case) -> str:
        installed = (e for e in case.machine.engines if e.name == self.name)
        found = min(installed, key=lambda e: bool(e.problem), default=None)
        if found is None:
            return "SGLang is not installed"
        return f"SGLang does not load: {found.problem}" if found.problem else ""


def _own(case: Case) -> SglangCase:
    facts = case.facts.sglang
    return SglangCase(case.machine, case.model, case.wishes, facts, case.hints, case.adapter)
