"""Physical cores this process may use, and the instruction sets they have."""

from __future__ import annotations

from kt_cli.core import isa as levels
from kt_cli.core.machine import Core, Cpu
from kt_cli.probe import answers, cgroup, cpulist
from kt_cli.probe.host import Host

CPUS = "/sys/devices/system/cpu"
NODES = "/sys/devices/system/node"

ALIASES = {
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avx512bitalg": "avx512_bitalg",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512_vbmi": "avx512vbmi",
    "avxvnni": "avx_vnni",
}
PREFIXES = ("avx", "amx", "asimd", "sve")
OTHERS = frozenset({"fma", "f16c", "bmi2", "sse4_2", "bf16", "i8mm", "gfni", "fphp", "sme", "sme2"})

# Arm's MIDR implementer and part (Linux: arch/arm64/include/asm/cputype.h).
ARM_PARTS = {
    (0x41, 0xD0C): "Neoverse N1",
    (0x41, 0xD40): "Neoverse V1",
    (0x41, 0xD49): "Neoverse N2",
    (0x41, 0xD4F): "Neoverse V2",
    (0x48, 0xD01): "Kunpeng 920",
    (0x48, 0xD02): "Kunpeng 920B",
    (0xC0, 0xAC3): "Ampere-1",
}
ARM_VENDORS = {0x41: "ARM", 0x48: "HiSilicon", 0xC0: "Ampere", 0x61: "Apple"}


def read(host: Host) -> Cpu:
    info = _told(host, _first_processor(host))
    online = _online(host)
    allowed, why = _allowed(host, online)
    cores = _cores(host, online)
    quota = cgroup.quota(host)
    if quota is not None:
        why.append(f"the cgroup's quota grants {quota:g} CPUs' worth of time")
    vendor, model = _identity(host, info)
    features = isa(info.get("flags") or info.get("Features") or "")
    limit = host.env.get(levels.VARIABLE, "")
    return Cpu(
        model=model,
        vendor=vendor,
        isa=levels.usable(features, limit),
        cores=_narrowed(cores, allowed),
        total_cores=len(cores),
        total_threads=len(online),
        sockets=len({core.socket for core in cores}) or 1,
        quota=quota,
        why="; ".join(why),
        withheld=levels.withheld(features, limit),
    )


def isa(flags: str) -> tuple[str, ...]:
    """The vector and matrix sets among the kernel's flags, sorted, under Linux's names."""
    names = {ALIASES.get(flag.lower(), flag.lower()) for flag in flags.split()}
    return tuple(sorted(n for n in names if n.startswith(PREFIXES) or n in OTHERS))


def _narrowed(cores: list[Core], allowed: frozenset[int]) -> tuple[Core, ...]:
    found = []
    for core in cores:
        if cpus := tuple(cpu for cpu in core.cpus if cpu in allowed):
            found.append(Core(cpus, core.node, core.socket, core.efficiency))
    return tuple(found)


def _allowed(host: Host, online: tuple[int, ...]) -> tuple[frozenset[int], list[str]]:
    """CPUs left by cpuset and affinity, and a sentence for each that took some away."""
    everything = frozenset(online)
    cpuset = frozenset(cgroup.cpus(host)) & everything or everything
    status = _fields(host.text("/proc/self/status"))
    affine = frozenset(cpulist.lenient(status.get("Cpus_allowed_list", ""))) & everything
    allowed = cpuset & affine if affine else cpuset
    why = []
    if cpuset < everything:
        why.append(f"the cpuset allows CPUs {cpulist.format(cpuset)} of {len(everything)}")
    if allowed and allowed < cpuset:
        why.append(f"the affinity allows CPUs {cpulist.format(allowed)} of {len(everything)}")
    return allowed or cpuset, why


def _online(host: Host) -> tuple[int, ...]:
    listed = cpulist.lenient(host.text(f"{CPUS}/online"))
    if listed:
        return listed
    return tuple(cpulist.parse(p["processor"])[0] for p in _processors(host)) or (0,)


def _cores(host: Host, online: tuple[int, ...]) -> list[Core]:
    """All physical cores, ordered by their first CPU."""
    nodes = _cpu_nodes(host)
    small = _small_cpus(host, online)
    from_cpuinfo = _siblings_in_cpuinfo(host) if not host.exists(f"{CPUS}/cpu0/topology") else {}
    seen: set[int] = set()
    cores = []
    for cpu in online:
        if cpu not in seen:
            socket, siblings = from_cpuinfo.get(cpu) or _topology(host, cpu)
            cpus = tuple(c for c in siblings if c in online) or (cpu,)
            seen.update(cpus)
            cores.append(Core(cpus, nodes.get(cpu, 0), socket, cpu in small))
    return cores


def _topology(host: Host, cpu: int) -> tuple[int, tuple[int, ...]]:
    """(socket, CPUs of the same core)."""
    place = f"{CPUS}/cpu{cpu}/topology"
    # core_cpus_list is the new name of thread_siblings_list (since Linux 5.3).
    listed = host.text(f"{place}/core_cpus_list") or host.text(f"{place}/thread_siblings_list")
    # Arm machines without firmware tables say -1.
    return max(0, host.number(f"{place}/physical_package_id") or 0), cpulist.lenient(listed)


def _siblings_in_cpuinfo(host: Host) -> dict[int, tuple[int, tuple[int, ...]]]:
    """For kernels that hide sysfs: CPUs with equal physical id and core id share a core."""
    groups: dict[tuple[str, str], list[int]] = {}
    for block in _processors(host):
        cpu = block["processor"]
        key = (block.get("physical id", "0"), block.get("core id", f"cpu{cpu}"))
        groups.setdefault(key, []).extend(cpulist.parse(cpu))
    return {
        cpu: (answers.number(socket) or 0, tuple(cpus))
        for (socket, _), cpus in groups.items()
        for cpu in cpus
    }


def _cpu_nodes(host: Host) -> dict[int, int]:
    return {
        cpu: node
        for node in cpulist.lenient(host.text(f"{NODES}/online"))
        for cpu in cpulist.lenient(host.text(f"{NODES}/node{node}/cpulist"))
    }


def _small_cpus(host: Host, online: tuple[int, ...]) -> frozenset[int]:
    """Intel lists its E-cores as a perf device; Arm gives each CPU a relative capacity."""
    if atoms := cpulist.lenient(host.text("/sys/devices/cpu_atom/cpus")):
        return frozenset(atoms) if host.exists("/sys/devices/cpu_core/cpus") else frozenset()
    if not host.exists(f"{CPUS}/cpu{online[0]}/cpu_capacity"):
        return frozenset()
    capacity = {cpu: host.number(f"{CPUS}/cpu{cpu}/cpu_capacity") or 0 for cpu in online}
    return frozenset(c for c in online if capacity[c] < max(capacity.values()))


def _identity(host: Host, info: dict[str, str]) -> tuple[str, str]:
    """(vendor, model name)."""
    model = " ".join(info.get("model name", "").split())
    if "CPU implementer" not in info:
        return info.get("vendor_id", ""), model or info.get("cpu model", "")
    maker = answers.number(info["CPU implementer"]) or 0
    part = ARM_PARTS.get((maker, answers.number(info.get("CPU part")) or 0), "")
    return ARM_VENDORS.get(maker, "ARM"), model or part or "Arm processor"


def _told(host: Host, info: dict[str, str]) -> dict[str, str]:
    """What /proc/cpuinfo lacks, as in sandboxes that hide it, comes from the CPU itself."""
    known = ("flags", "model name") if "CPU implementer" not in info else ("Features",)
    if all(info.get(name) for name in known):
        return info
    asked = host.cpu_identity()
    flags = asked.get("flags")
    found = {
        "vendor_id": asked.get("vendor_id_raw"),
        "model name": asked.get("brand_raw"),
        known[0]: " ".join(map(str, flags)) if isinstance(flags, (list, tuple)) else "",
    }
    return {**{k: v for k, v in found.items() if isinstance(v, str) and v}, **_filled(info)}


def _filled(info: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in info.items() if value}


def _first_processor(host: Host) -> dict[str, str]:
    return _fields(host.text("/proc/cpuinfo").partition("\n\n")[0])


def _processors(host: Host) -> list[dict[str, str]]:
    blocks = [_fields(block) for block in host.text("/proc/cpuinfo").split("\n\n")]
    return [block for block in blocks if len(cpulist.lenient(block.get("processor", ""))) == 1]


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}
