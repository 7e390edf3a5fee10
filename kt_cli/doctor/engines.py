"""Engines: do they load, do they use their kernels, do their packages belong together."""

from __future__ import annotations

from collections.abc import Iterator

from kt_cli.core import kernels
from kt_cli.core.machine import Engine, Machine
from kt_cli.doctor import needs
from kt_cli.doctor.facts import Facts, Packages
from kt_cli.doctor.finding import Finding, error, info, ok, warning
from kt_cli.doctor.versions import release, same, within

UNCHECKED = "unchecked"


def check(machine: Machine, facts: Facts) -> Iterator[Finding]:
    yield from _none(machine)
    for engine in machine.engines:
        yield _loads(engine, machine)
        yield from _kernels(engine, machine)
    yield from _embedded(machine)
    for packages in facts.packages:
        yield from _carriers(packages)
        yield from _pins(packages)
        yield from _replaced(packages)
    yield from _shadowed(facts)
    yield from _glibc(machine)


def _none(machine: Machine) -> Iterator[Finding]:
    if not any(engine.name in ("torch", "sglang") for engine in machine.engines):
        yield error(
            "no-engine",
            "no engine is installed",
            why="`kt run` has nothing to serve a model with",
            fix="run `pip install 'kt-cli[embedded]'`",
        )


def _loads(engine: Engine, machine: Machine) -> Finding:
    name = f"engine-{engine.name}"
    what = f"{engine.name} {engine.version}".strip()
    if engine.problem and engine.name == "sglang" and not machine.gpus:
        return info(name, f"{what} is installed; it loads on machines with an NVIDIA GPU only")
    if engine.problem:
        return error(
            name,
            f"{what} does not load: {engine.problem}",
            why=_consequence(engine),
            fix=_cure(engine, machine),
        )
    if UNCHECKED in engine.details:
        return info(name, f"{what} is installed, not loaded for a test")
    extra = [f"{k} {engine.details[k]}" for k in ("variant", "cuda") if k in engine.details]
    return ok(name, f"{what} loads" + (f" ({', '.join(extra)})" if extra else ""))


def _consequence(engine: Engine) -> str:
    if engine.name == "torch":
        return "nothing runs without it: neither the embedded engine nor any other"
    if engine.name == "kt_kernel":
        return "SGLang starts without CPU experts and runs out of GPU memory"
    return f"everything that needs {engine.name} fails at start"


def _cure(engine: Engine, machine: Machine) -> str:
    reinstall = (
        f"run `{engine.python or 'python'} -m pip install --force-reinstall {_package(engine)}`"
    )
    if "SIGILL" not in engine.problem:
        return reinstall
    if engine.name == "kt_kernel":
        return "run `export KT_KERNEL_CPU_VARIANT=avx2` (its choice of CPU variant is wrong here)"
    return f"its code needs instructions that {machine.cpu.model} lacks: install a build for it"


def _package(engine: Engine) -> str:
    return engine.details.get("distribution", engine.name)


def _kernels(engine: Engine, machine: Machine) -> Iterator[Finding]:
    """Loading is not enough: the fast parts have to be there and chosen."""
    looks = {"kt_moe": _own_kernels, "kt_kernel": _kt_kernel, "sglang": _sglang}
    if not engine.problem and engine.name in looks:
        yield from looks[engine.name](engine, machine)


def _own_kernels(engine: Engine, machine: Machine) -> Iterator[Finding]:
    details = engine.details
    variant, why = details.get("variant", ""), details.get("why", "not built")
    if details.get("available") == "False":
        yield warning(
            "kernels",
            what=f"the CPU expert kernels cannot be used: {why}",
            why="experts run through PyTorch, at a fraction of the tokens/s",
            fix=kernels.remedy(why),
        )
    elif variant not in ("", "amx") and "amx_int8" in (*machine.cpu.isa, *machine.cpu.withheld):
        yield warning(
            "kernels-variant",
            what=f"the CPU expert kernels use {variant} although the processor has AMX: "
            f"{details.get('amx', '')}",
            why="prefill is several times slower than with AMX",
            fix="run `unset KT_ISA`, or update the kernel or the hypervisor that withholds AMX",
        )


def _kt_kernel(engine: Engine, machine: Machine) -> Iterator[Finding]:
    if engine.details.get("variant") == "avx2" and machine.cpu.has("amx_int8"):
        yield warning(
            "kt-kernel-variant",
            what="kt_kernel loads its AVX2 variant although the processor has AMX",
            why="AMXINT4 and AMXINT8 refuse to start and prefill is several times slower",
            fix="run `unset KT_KERNEL_CPU_VARIANT`, or `export KT_KERNEL_CPU_VARIANT=amx`",
        )


def _sglang(engine: Engine, machine: Machine) -> Iterator[Finding]:
    if problem := engine.details.get("sgl_kernel"):
        yield Finding(
            "sgl-kernel",
            "error" if machine.gpus else "info",
            what=f"SGLang's GPU kernels do not load: {problem}",
            why="SGLang fails at the first request" if machine.gpus else "no GPU here to use them",
            fix="install all of `ktransformers[sglang]` in one version" if machine.gpus else "",
        )
    if engine.details.get("kt") == "no":
        yield warning(
            "sglang-kt",
            "this SGLang has no CPU experts",
            why="it would load all experts on the GPU and run out of memory",
            fix=f"run `{engine.python or 'python'} -m pip install 'ktransformers[sglang]'`",
        )


def _embedded(machine: Machine) -> Iterator[Finding]:
    """The embedded engine lives beside kt, so only that environment's versions count."""
    home = machine.engine("kt_moe")
    for name, (low, below) in needs.EMBEDDED.items():
        engine = machine.engine(name)
        if home is None or engine is None or engine.python != home.python:
            continue
        if engine.version and not within(engine.version, low, below):
            low_text, below_text = (".".join(map(str, v)) for v in (low, below))
            old = release(engine.version) < low
            yield Finding(
                f"{name}-version",
                "error" if old else "warning",
                what=f"{name} {engine.version} is outside {low_text} ≤ version < {below_text}",
                why="the embedded engine needs functions it lacks" if old else "not tested with it",
                fix=f"run `{engine.python} -m pip install '{name}>={low_text},<{below_text}'`",
            )


def _carriers(packages: Packages) -> Iterator[Finding]:
    """SGLang's kernels are spread over five wheels; one missing or odd breaks every GPU, unless
    they are installed as a package of their own."""
    have = packages.versions
    if "sglang-kt" not in have or any(name in have for name in needs.KERNELS):
        return
    pins = packages.pins.get("sglang-kt", {})
    wanted = {"ktransformers": have["sglang-kt"], "kt-kernel": have["sglang-kt"], **pins}
    missing = [name for name in needs.CARRIERS if name not in have]
    odd = [
        f"{name} {have[name]} (wanted {wanted[name]})"
        for name in needs.CARRIERS
        if name in have and name in wanted and not same(wanted[name], have[name])
    ]
    if missing or odd:
        parts = [f"missing: {', '.join(missing)}"] if missing else []
        parts += [f"of another version: {', '.join(odd)}"] if odd else []
        yield error(
            "carriers",
            what=f"SGLang's kernels are incomplete, {'; '.join(parts)}",
            why="its payload is spread over five packages of one release: GPUs fail without",
            fix=f"run `{packages.python} -m pip install "
            f"'ktransformers[sglang]=={have['sglang-kt']}'`",
        )


def _pins(packages: Packages) -> Iterator[Finding]:
    """The first of several packages that want the same speaks for all."""
    said: set[tuple[str, str]] = set()
    for name in needs.PINNED:
        for wanted, version in packages.pins.get(name, {}).items():
            have = packages.versions.get(wanted)
            if have is None or same(version, have) or wanted in needs.CARRIERS:
                continue
            if (wanted, version) in said:
                continue
            said.add((wanted, version))
            hard = name == "sglang-kt" and wanted in needs.BINARY
            yield Finding(
                f"pin-{name}-{wanted}",
                "error" if hard else "warning",
                what=f"{name} {packages.versions.get(name, '')} wants {wanted} {version}, "
                f"{have} is installed",
                why=f"its compiled kernels load with {wanted} {version} only"
                if hard
                else "untested together: expect import errors or wrong results",
                fix=f"run `{packages.python} -m pip install '{wanted}=={version}'`",
            )


def _replaced(packages: Packages) -> Iterator[Finding]:
    for name, (good, steps) in needs.REPLACED.items():
        have = packages.versions.get(name)
        if have is None or (good and release(have) >= release(good)):
            continue
        yield warning(
            f"old-{name}",
            f"{name} {have} is obsolete",
            why="its files overlap those of kt-kernel: the wrong ones may load, or none",
            fix="run " + ", then ".join(f"`{packages.python} -m pip {step}`" for step in steps),
        )


def _shadowed(facts: Facts) -> Iterator[Finding]:
    if not facts.scripts or facts.scripts[0][1] == "kt_cli":
        return
    path, owner = facts.scripts[0]
    yield warning(
        "kt-shadowed",
        what=f"`kt` in your shell starts {path}, which belongs to {owner or 'another program'}",
        why="commands of this program fail or do something else there",
        fix="type `kt-cli` instead, or run `pip install --force-reinstall --no-deps kt-cli`",
    )


def _glibc(machine: Machine) -> Iterator[Finding]:
    have = release(machine.system.glibc)
    if not have:
        return
    for engine, wanted in needs.GLIBC.items():
        if have < wanted and not any(e.name == engine and not e.problem for e in machine.engines):
            wanted_text = ".".join(map(str, wanted))
            yield Finding(
                f"glibc-{engine}",
                "error" if engine == "torch" else "warning",
                what=f"glibc {machine.system.glibc} is older than {wanted_text}",
                why=f"the published {engine} does not install or load here",
                fix="use a newer distribution, or a container of one",
            )
