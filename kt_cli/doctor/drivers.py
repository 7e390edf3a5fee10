"""GPUs and their drivers against what the engines need."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core.machine import Engine, Gpu, Machine
from kt_cli.core.units import gb
from kt_cli.doctor import needs
from kt_cli.doctor.facts import Facts
from kt_cli.doctor.finding import Finding, error, info, ok, warning
from kt_cli.doctor.versions import release

GENERATIONS = {7: "Volta and Turing", 6: "Pascal", 5: "Maxwell"}
GPU_ENGINES = ("sglang", "kt_kernel")


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    yield from _unread(machine)
    for gpu in machine.gpus:
        yield _gpu(gpu, machine)
        yield from _link(gpu)
        yield from _far(gpu, machine)
        yield from _occupied(gpu)
    yield from _cuda(machine)
    if not machine.gpus and not machine.problems:
        yield info(
            "gpu",
            "no GPU",
            why="the embedded engine runs on the CPU alone; prefill is where a GPU helps most",
        )


def _unread(machine: Machine) -> Iterator[Finding]:
    if not machine.problems:
        return
    what = "; ".join(machine.problems)
    # Engines run on NVIDIA's GPUs; another vendor's card that cannot be read breaks nothing.
    needed = "nvidia" in what.lower()
    yield Finding(
        "gpu-driver",
        "error" if needed else "info",
        what,
        why="the GPU stays unused: attention and prefill run on the CPU",
        fix=_driver_fix(what),
    )


def _driver_fix(problem: str) -> str:
    if "nvidia-ml-py" in problem:
        return "run `pip install nvidia-ml-py`"
    for tool in ("rocm-smi", "xpu-smi", "npu-smi"):
        if tool in problem:
            return (
                f"install the vendor's driver and `{tool}`, then see that `{tool}` lists the card"
            )
    if "vfio" in problem:
        return "the card is reserved for a virtual machine: bind it to the `nvidia` driver again"
    if "lost" in problem or "stopped answering" in problem:
        return "look for `Xid` in `dmesg`, then reboot; a card that falls off again is faulty"
    return "install or reload the NVIDIA driver, then see that `nvidia-smi` lists the card"


def _gpu(gpu: Gpu, machine: Machine) -> Finding:
    name = f"gpu-{gpu.index}"
    what = f"{gpu.name}, {gb(gpu.memory)}"
    if gpu.vendor != "nvidia" or gpu.capability is None:
        return info(
            name,
            what,
            why="seen, but no engine here has been run on this vendor's GPUs: plan for the CPU",
        )
    major, minor = gpu.capability
    what += f", compute capability {major}.{minor}"
    if gpu.capability < needs.CAPABILITY:
        wanting = any(machine.engine(engine) for engine in GPU_ENGINES)
        return Finding(
            name,
            "error" if wanting else "warning",
            what,
            why=f"{GENERATIONS.get(major, 'such cards')} are too old: the GPU kernels of kt-kernel "
            "and SGLang need 8.0 (Ampere) and fail at start",
            fix="use the embedded engine on the CPU, or a card from Ampere on",
        )
    if gpu.capability < needs.CAPABILITY_FP8:
        return ok(
            name,
            what,
            why="FP8 on the GPU needs 8.9: take BF16 or INT4 checkpoints",
        )
    return ok(name, what)


def _link(gpu: Gpu) -> Iterator[Finding]:
    width, most = gpu.pcie_width, gpu.pcie_max_width
    if width and most and width < most and not gpu.mig:
        yield warning(
            f"pcie-width-{gpu.index}",
            what=f"GPU {gpu.index} uses {width} of {most} PCIe lanes",
            why=f"experts streamed to the GPU for long prompts come at {width / most:.0%} of the "
            "link's speed",
            fix="move the card to a slot with all lanes, clean its contacts, check the riser",
        )
    gen, best = gpu.pcie_gen, gpu.pcie_max_gen
    if gen and best and gen < best and not gpu.mig:
        yield info(
            f"pcie-generation-{gpu.index}",
            what=f"GPU {gpu.index} could do PCIe {best}, its slot does {gen}",
            why=f"experts streamed to the GPU come at {0.5 ** (best - gen):.0%} of the card's best",
            fix="look in the firmware setup for a slot limited by hand",
        )


def _far(gpu: Gpu, machine: Machine) -> Iterator[Finding]:
    workers = {node.id for node in machine.worker_nodes}
    near = {node.id for node in machine.nodes if node.cpus}
    if gpu.node in near - workers:
        yield info(
            f"gpu-far-{gpu.index}",
            f"GPU {gpu.index} hangs at NUMA node {gpu.node}, whose cores this process may not use",
            why="everything between experts and GPU crosses the link between the nodes",
            fix="allow cores and memory of that node, or take a GPU of an allowed one",
        )


def _occupied(gpu: Gpu) -> Iterator[Finding]:
    if gpu.free < gpu.memory // 2:
        yield info(
            f"gpu-memory-{gpu.index}",
            what=f"{gb(gpu.memory - gpu.free)} of {gb(gpu.memory)} on GPU {gpu.index} are in use",
            why="kt plans with what is free: fewer experts on the GPU, a shorter context",
            fix="see who holds it with `nvidia-smi`" if gpu.vendor == "nvidia" else "",
        )


def _cuda(machine: Machine) -> Iterator[Finding]:
    """CUDA's minor versions are compatible, its major ones are not."""
    cards = [gpu for gpu in machine.gpus if gpu.vendor == "nvidia"]
    driver = release(machine.system.cuda)
    for torch in (engine for engine in machine.engines if engine.name == "torch"):
        built = release(torch.details.get("cuda", ""))
        if cards and driver and built and built[0] > driver[0]:
            yield error(
                "cuda-version",
                what=f"torch {torch.version} is built for CUDA {torch.details['cuda']}, the driver "
                f"{machine.system.driver} goes up to {machine.system.cuda}",
                why="torch cannot use the GPU: `CUDA driver version is insufficient`",
                fix=f"update the NVIDIA driver, or install a torch built for CUDA {driver[0]}",
            )
        elif cards and built:
            yield from _architectures(cards, torch)
        elif cards and torch.version.endswith("+cpu"):
            yield _processor_only(torch)


def _processor_only(torch: Engine) -> Finding:
    return warning(
        "torch-cpu",
        what=f"torch {torch.version} is a build without CUDA, beside an NVIDIA GPU",
        why="the GPU stays unused by the embedded engine: prefill runs on the CPU",
        fix=f"run `{torch.python} -m pip install --force-reinstall "
        f"torch=={torch.version.partition('+')[0]}` from an index with CUDA builds",
    )


def _architectures(cards: list[Gpu], torch: Engine) -> Iterator[Finding]:
    """Machine code runs on cards of the same major version and at least the same minor one."""
    names = torch.details.get("architectures", "").split()
    built = [_capability(name) for name in names if name.startswith("sm_")]
    portable = any(name.startswith("compute_") for name in names)
    for gpu in cards:
        fits = any(
            gpu.capability and b[0] == gpu.capability[0] and b <= gpu.capability for b in built
        )
        if built and not fits and not portable:
            yield error(
                "torch-architecture",
                what=f"torch {torch.version} has no code for {gpu.name}",
                why="every GPU operation fails: `no kernel image is available for execution`",
                fix=f"install a torch whose build covers it (this one: {' '.join(names)})",
            )


def _capability(name: str) -> tuple[int, int]:
    digits = "".join(filter(str.isdigit, name))
    return int(digits[:-1]), int(digits[-1])
