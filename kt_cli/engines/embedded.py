"""The embedded engine: from a plan to the command that starts it, and what it can be told."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from kt_cli.core.engine import Facts
from kt_cli.core.engine_embedded import EmbeddedPlanning
from kt_cli.core.engine_report import planned_uses, to_words
from kt_cli.core.history import FIRST
from kt_cli.core.launch import Diagnosis, LaunchSpec
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.packing import MAP, WRITE
from kt_cli.core.plan import Kind, Plan, Range
from kt_cli.engines.serving import Serving, Start
from kt_cli.errors import EnvironmentBroken
from kt_cli.options import RunOptions

KEY_VARIABLE = "KT_API_KEY"
NEEDS = ("torch", "transformers")
_FLAGS: Mapping[str, str] = {
    "context": "--context",
    "max_running_requests": "--max-batch",
    "cpu_threads": "--threads",
    "device": "--device",
    "kv_tokens": "--kv-tokens",
    "rules": "--rules",
    "dtype": "--dtype",
    "experts_backend": "--experts-backend",
}
"""Decision of the plan → the engine's own flag."""
_ENVIRONMENT: dict[str, str] = {
    "MALLOC_ARENA_MAX": "2",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""Few heaps, so that what one thread frees serves another; the engine gives free pages back itself
(`embedded.heap`). On a GPU, chunks of growing length fill one growing segment instead of leaving a
hole for each."""
_PATIENCE_S = 600.0
_MARGIN = 10.0
"""A disk may be this much slower than planned before loading is given up."""

DIAGNOSES = (
    Diagnosis(
        r"DefaultCPUAllocator: can't allocate memory|^MemoryError",
        "the memory of this machine ran out",
        "{line}",
        "use a shorter --ctx-size or fewer --max-running-requests; see `kt plan`",
    ),
    Diagnosis(
        r"OutOfMemoryError: (CUDA|HIP) out of memory",
        "the memory of the GPU ran out",
        "{line}",
        "use a shorter --ctx-size, or --device cpu",
    ),
    Diagnosis(
        r"(ModuleNotFoundError|ImportError): ",
        "a Python package of the embedded engine is missing or broken",
        "{line}",
        "`pip install 'kt-cli[embedded]'`",
    ),
    Diagnosis(
        r"No space left on device", "the disk is full", "{line}", "free some space and try again"
    ),
)


def lower(
    plan: Plan,
    options: RunOptions,
    python: str,
    *,
    home: Path | None = None,
    with_key: bool = False,
) -> LaunchSpec:
    """The command for `plan`. A key travels in the environment as KT_API_KEY, never here.

    `home` holds what is kept from start to start; None keeps nothing.
    """
    name = options.served_model_name or plan.value("served_model_name") or plan.model
    host, port = plan.value("host", "127.0.0.1"), plan.value("port", 30000)
    argv = [python, "-m", "kt_cli.embedded", "--model", plan.path or plan.model, "--name", name]
    argv += ["--host", host, "--port", str(port), *_decided(plan)]
    if home is not None and plan.value("pack_cache") in (WRITE, MAP):
        argv += ["--packs", str(home / "cache" / "packs"), *_packs_limit(options)]
    if with_key:
        argv += ["--api-key-env", KEY_VARIABLE]
    if options.trust_remote_code:
        argv.append("--trust-remote-code")
    return LaunchSpec(
        engine="embedded",
        model=name,
        argv=tuple(argv),
        host=host,
        port=port,
        env=_ENVIRONMENT | ({"KT_MOE_CACHE": str(home / "cache" / "kernels")} if home else {}),
        ready_timeout_s=_patience(plan),
        diagnoses=DIAGNOSES,
    )


def _packs_limit(options: RunOptions) -> tuple[str, ...]:
    limit = options.pack_cache_size
    return () if limit is None else ("--packs-limit", str(limit))


def python_for(machine: Machine, current: str) -> str:
    """The interpreter that has all the engine needs, `current` where it does.

    Raises EnvironmentBroken that names what is missing or broken.
    """
    pythons = [current, *(e.python for e in machine.engines if e.name == NEEDS[0])]
    complete = (p for p in pythons if not any(True for _ in _lacking(machine, p)))
    found = next(complete, None)
    if found is not None:
        return found
    why = "; ".join(_lacking(machine, current))
    fix = "`pip install 'kt-cli[embedded]'`"
    raise EnvironmentBroken("the embedded engine cannot run here", why, fix)


def _lacking(machine: Machine, python: str) -> Iterator[str]:
    for name in NEEDS:
        engine = _engine(machine, name, python)
        if engine is None:
            yield f"{name} is not installed"
        elif engine.problem:
            yield f"{name} does not load: {engine.problem}"


def _engine(machine: Machine, name: str, python: str) -> Engine | None:
    return next((e for e in machine.engines if e.name == name and e.python == python), None)


_FORMATS = ("BF16", "INT8", "INT4")


def _decided(plan: Plan) -> Iterator[str]:
    if plan.value("compute_backend") == "kt_moe" and plan.value("kt_method") in _FORMATS:
        yield from ("--experts-format", plan.value("kt_method").lower())
    for decision, flag in _FLAGS.items():
        value = plan.value(decision)
        if value is not None:
            yield from (flag, str(value))
    yield from ("--planned", to_words(planned_uses(plan)))


def _patience(plan: Plan) -> float:
    planned = plan.speed.load_s
    return max(_PATIENCE_S, _MARGIN * planned.high) if planned else _PATIENCE_S


class Embedded(EmbeddedPlanning, Serving):
    def python_for(self, machine: Machine) -> str:
        return python_for(machine, sys.executable)

    def lower(self, start: Start, python: str) -> LaunchSpec:
        home = start.home and start.home.absolute()
        return lower(start.plan, start.options, python, home=home, with_key=start.with_key)

    def decode_limit(self, decode: Range, facts: Facts) -> float:
        return decode.high / facts.embedded.decode_efficiency[1]

    def base(self, facts: Facts, *, on_gpu: bool) -> int:
        own = facts.embedded
        return own.base_bytes + (own.gpu_host_bytes if on_gpu else 0)

    def context(self, facts: Facts) -> int:
        return facts.embedded.gpu_context_bytes

    def late(self, *, on_gpu: bool, used: bool) -> tuple[Kind, ...]:
        return FIRST if on_gpu and not used else ()

    def pools(self, facts: Facts, architecture: str) -> bool:
        return facts.embedded.pools(architecture)


ENGINE = Embedded()
