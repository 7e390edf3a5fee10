"""Machines and models the planner's tests share."""

from __future__ import annotations

from collections.abc import Mapping

from kt_cli.core.machine import Core, Cpu, Gpu, Machine, Measured, Memory, NumaNode
from kt_cli.core.model import Attention, Experts, Model
from kt_cli.core.units import GIB

AVX2 = ("avx2", "fma")
AMX = (
    *AVX2,
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512vbmi",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)


def machine(
    ram: int = 24 * GIB,
    cores: int = 2,
    nodes: int = 1,
    gpus: int = 0,
    vram: int = 24 * GIB,
    isa: tuple[str, ...] = AVX2,
    free: int | None = None,
    stolen: Mapping[int, float] | None = None,
) -> Machine:
    held = tuple(Core((i,), i * nodes // cores) for i in range(cores))
    per_node = [tuple(c.cpus[0] for c in held if c.node == n) for n in range(nodes)]
    share = ram // nodes
    return Machine(
        name="test",
        cpu=Cpu("CPU", "GenuineIntel", isa, held, cores, cores, sockets=nodes),
        nodes=tuple(NumaNode(n, per_node[n], share, share) for n in range(nodes)),
        memory=Memory(ram, ram if free is None else free),
        gpus=tuple(Gpu(i, "GPU", "nvidia", vram, vram, capability=(8, 9)) for i in range(gpus)),
        measured=Measured({1: 25.0, 2: 46.0}, {"fp32": 204.0}, disk_gbs=1.0, stolen=stolen or {}),
    )


def small_model(context: int = 8192, layers: int = 30, experts: int = 8) -> Model:
    """The demo's shape: Mixtral with hidden 576."""
    moe = Experts(experts, 2, 576, 768, tuple(range(layers)))
    counts = {
        "attention": layers * (2 * 576 * 576 + 2 * 576 * 192),
        "routed_experts": layers * experts * moe.parameters_each,
        "router": layers * experts * 576,
        "norm": (2 * layers + 1) * 576,
        "embedding": 49152 * 576,
    }
    return Model(
        name="small",
        architecture="MixtralForCausalLM",
        layers=layers,
        hidden=576,
        vocab=49152,
        context=context,
        dtype="bf16",
        attention=Attention("gqa", 9, 3, 64, 64, layers),
        bytes={k: 2 * v for k, v in counts.items()},
        experts=moe,
        parameters=counts,
    )
