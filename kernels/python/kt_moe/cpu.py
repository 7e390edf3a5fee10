"""What this CPU offers, which variant of the kernels runs, and on how many threads."""

from __future__ import annotations

from typing import TypedDict

from kt_moe._native import IsaError, core, loaded, why


class CpuInfo(TypedDict):
    isa: list[str]  # features that CPU and operating system both allow
    variants: list[str]  # kernel variants that run here, slowest first
    lacks: dict[str, str]  # variant that does not run here: what is missing
    variant: str  # in use; empty without kernels
    amx_permission: bool
    amx_reason: str  # why AMX is not usable; empty when it is
    cores: int  # physical cores this process may use
    nodes: dict[int, list[int]]  # memory nodes experts are divided over, and their cores
    memory_refused: str  # why memory could not be asked for by node; empty where it could
    reason: str  # why the kernels are not available; empty when they are


def cpu_info() -> CpuInfo:
    module = loaded()
    if module is None:
        return CpuInfo(
            isa=[],
            variants=[],
            lacks={},
            variant="",
            amx_permission=False,
            amx_reason=why,
            cores=0,
            nodes={},
            memory_refused="",
            reason=why,
        )
    permission, amx_reason = module.amx()
    lacks = dict(module.variants())
    return CpuInfo(
        isa=list(module.features()),
        variants=[name for name, missing in lacks.items() if not missing],
        lacks={name: missing for name, missing in lacks.items() if missing},
        variant="" if why else module.isa(),
        amx_permission=permission,
        amx_reason=amx_reason,
        cores=module.allowed_cores(),
        nodes=dict(module.nodes()),
        memory_refused=module.refused_memory(),
        reason=why,
    )


def use_isa(name: str) -> str:
    """Run later calls on `avx2`, `avx512` or `amx` (empty: the best one); the variant chosen.

    Packed weights suit every variant. Raises IsaError naming what the CPU lacks.
    """
    module = core()
    try:
        module.use_isa(name)
    except module.IsaError as error:
        raise IsaError(str(error)) from None
    return str(module.isa())


def set_threads(n: int) -> None:
    """Threads in all, the caller's included; 0 means one per allowed physical core."""
    most = core().max_threads()
    if not 0 <= n <= most:
        raise ValueError(f"threads must be 0 to {most}, not {n}")
    core().set_threads(n)


def threads() -> int:
    return int(core().threads())
