"""CPU kernels for the routed experts of Mixture-of-Experts models.

Importing needs only numpy, and works without the compiled part: `available` says whether that can
be used here, and `why` says why not.
"""

from typing import TYPE_CHECKING, Any

from kt_moe import limits, tuning
from kt_moe._native import IsaError, KernelsUnavailable, available, why
from kt_moe.cpu import CpuInfo, cpu_info, set_threads, threads, use_isa
from kt_moe.deferred import Deferred, split_deferred
from kt_moe.experts import Experts
from kt_moe.gpu import GpuBuffers, GpuError, GpuLink
from kt_moe.packfile import PackFileError

if TYPE_CHECKING:
    from kt_moe.compat import KTMoEWrapper

__all__ = [
    "CpuInfo",
    "Deferred",
    "Experts",
    "GpuBuffers",
    "GpuError",
    "GpuLink",
    "IsaError",
    "KTMoEWrapper",
    "KernelsUnavailable",
    "PackFileError",
    "available",
    "cpu_info",
    "limits",
    "set_threads",
    "split_deferred",
    "threads",
    "tuning",
    "use_isa",
    "why",
]


def __getattr__(name: str) -> Any:
    """`KTMoEWrapper` needs torch, which is imported when it is asked for."""
    if name == "KTMoEWrapper":
        from kt_moe.compat import KTMoEWrapper

        return KTMoEWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
