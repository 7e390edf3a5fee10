"""SGLang with experts on the CPU: from a plan to the command that starts it.

Flags and traps are those of sglang-kt 0.7.2 with kt-kernel 0.7.2.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kt_cli.core.engine import Facts
from kt_cli.core.engine_sglang import SglangPlanning
from kt_cli.core.history import LATE
from kt_cli.core.launch import LaunchSpec
from kt_cli.core.machine import Engine, Machine
from kt_cli.core.plan import Kind, Plan, Range
from kt_cli.engines.serving import Serving, Start
from kt_cli.engines.sglang_flags import require_known
from kt_cli.engines.sglang_log import DIAGNOSES, STAGES
from kt_cli.errors import EnvironmentBroken, KtError
from kt_cli.options import RunOptions

NAME = SglangPlanning.name
UNCHECKED = "unchecked"
"""In `Engine.details` of an engine that was found but not loaded; see `probe.stack`."""
KEY_VARIABLE = "KT_API_KEY"
PLACEHOLDER = "FOLDER"
"""Stands for expert weights that are yet to be converted."""
_FLAGS: Mapping[str, str] = {
    "context": "--context-length",
    "max_running_requests": "--max-running-requests",
    "kv_tokens": "--max-total-tokens",
    "state_slots": "--max-mamba-cache-size",
    "kv_cache_dtype": "--kv-cache-dtype",
    "tp": "--tensor-parallel-size",
    "mem_fraction": "--mem-fraction-static",
    "chunked_prefill_size": "--chunked-prefill-size",
    "attention_backend": "--attention-backend",
    "sampling_backend": "--sampling-backend",
    "quantization": "--quantization",
    "fp8_gemm_backend": "--fp8-gemm-backend",
    "moe_runner_backend": "--moe-runner-backend",
    "tool_call_parser": "--tool-call-parser",
    "reasoning_parser": "--reasoning-parser",
    "speculative_algorithm": "--speculative-algorithm",
}
"""Decision of the plan → SGLang's flag."""
_KT_FLAGS: Mapping[str, str] = {
    "kt_method": "--kt-method",
    "cpu_threads": "--kt-cpuinfer",
    "threadpool_count": "--kt-threadpool-count",
    "numa_nodes": "--kt-numa-nodes",
    "gpu_experts": "--kt-num-gpu-experts",
    "deferred_experts": "--kt-max-deferred-experts-per-token",
    "gpu_prefill_threshold": "--kt-gpu-prefill-token-threshold",
}
_SWITCHES = {
    "disable_shared_experts_fusion": "--disable-shared-experts-fusion",
    "disable_cuda_graph": "--disable-cuda-graph",
}
_LORA = ("--enable-lora", "--lora-backend", "triton", "--max-loras-per-batch", "1", "--lora-paths")
"""An adapter that is trained with kt-kernel, as its guide serves it; before NAME=FOLDER."""
_TOLD = {"kv_tokens": "pool_tokens", "kv_cache_dtype": "kv_pool_dtype"}
"""Decision → the one that, where it is there, is what SGLang must be told."""
_SAID_OTHERWISE: Mapping[str, Mapping[Any, str]] = {
    "kv_cache_dtype": {"bf16": "auto", "fp8": "fp8_e4m3"},
}
_WATCHDOG_S = 3000
"""A long prompt on the CPU takes longer than the five minutes after which SGLang gives up."""
_PATIENCE_S = 1800.0
"""The first start compiles GPU code for minutes."""
_MARGIN = 10.0
_ENVIRONMENT: Mapping[str, str] = {
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "SGLANG_ENABLE_JIT_DEEPGEMM": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Less fragmentation; no minutes of compilation; no threads that spin beside kt-kernel's own."""
_WITH_KEY = f"""\
import os, runpy, sys
from sglang.srt.server_args import ServerArgs
key, shown = os.environ[{KEY_VARIABLE!r}], ServerArgs.__repr__
ServerArgs.__repr__ = lambda args: shown(args).replace(repr(key), "'***'")
sys.argv += ["--api-key", key]
runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)
"""
"""SGLang takes its key as an argument only, which every user of the machine could read, and it
writes its arguments to the log: so the key comes from the environment and its text is hidden."""


def lower(
    plan: Plan,
    options: RunOptions,
    python: str,
    machine: Machine,
    *,
    extra: Sequence[str] = (),
    managed: bool = False,
    with_key: bool = False,
) -> LaunchSpec:
    """The command for `plan`; `extra` are SGLang's own flags and win over the plan's.

    A managed interpreter must not see packages of the environment that kt runs in.
    """
    name = options.served_model_name or plan.value("served_model_name") or plan.model
    host, port = plan.value("host", "127.0.0.1"), plan.value("port", 30000)
    head = ("-c", _WITH_KEY) if with_key else ("-m", "sglang.launch_server")
    flags = ["--model-path", plan.path or plan.model, "--served-model-name", name]
    flags += ["--host", host, "--port", str(port), *_decided(plan)]
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    return LaunchSpec(
        engine=NAME,
        model=name,
        argv=(python, *head, *_without(flags, extra), *extra),
        host=host,
        port=port,
        env=_environment(plan, machine, managed),
        ready_timeout_s=_patience(plan),
        stages=STAGES,
        diagnoses=DIAGNOSES,
    )


def needs_conversion(plan: Plan) -> bool:
    """The method does not read the checkpoint, and no converted weights were given."""
    return bool(plan.value("kt_method")) and plan.value("weights_path") is None


def _decided(plan: Plan) -> Iterator[str]:
    for decision, flag in _FLAGS.items():
        told = plan.value(_TOLD.get(decision, ""))
        yield from _flag(flag, told or _spoken(decision, plan.value(decision)))
    if plan.value("tp", 1) > 1:
        yield "--enable-p2p-check"
    if plan.value("kt_method"):
        weights, folder = plan.value("weights_path"), plan.path or plan.model
        yield from ("--kt-weight-path", PLACEHOLDER if weights is None else weights or folder)
        for decision, flag in _KT_FLAGS.items():
            yield from _flag(flag, plan.value(decision))
    for decision, flag in _SWITCHES.items():
        if plan.value(decision):
            yield flag
    if plan.value("lora"):
        yield from (*_LORA, plan.value("lora"))
    yield from ("--watchdog-timeout", str(_WATCHDOG_S), "--enable-metrics")


def _spoken(decision: str, value: Any) -> Any:
    return _SAID_OTHERWISE.get(decision, {}).get(value, value)


def _flag(flag: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    yield flag
    yield from map(str, value) if isinstance(value, tuple) else (str(value),)


def _without(flags: Sequence[str], extra: Sequence[str]) -> Iterator[str]:
    """The flags that `extra` does not set itself, each with its values."""
    names = {word.partition("=")[0] for word in extra if word.startswith("--")}
    keep = True
    for word in flags:
        if word.startswith("--"):
            keep = word not in names
        if keep:
            yield word


def _environment(plan: Plan, machine: Machine, managed: bool) -> dict[str, str]:
    known = {gpu.index: gpu.uuid for gpu in machine.gpus}
    chosen = [known.get(index) or str(index) for index in plan.value("gpus", ())]
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else {}
    apart = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"} if managed else {}
    return {**visible, **_ENVIRONMENT, **apart}


def _patience(plan: Plan) -> float:
    planned = plan.speed.load_s
    return max(_PATIENCE_S, _MARGIN * planned.high) if planned else _PATIENCE_S


# Where it is installed


def installed(machine: Machine) -> Engine:
    """The SGLang that really loads and knows CPU experts.

    Raises EnvironmentBroken that names what is missing or broken and what was looked at.
    """
    found = [e for e in machine.engines if e.name == NAME]
    problems = {e.python: defect(e) for e in found}
    for engine in found:
        if not problems[engine.python] and engine.python:
            return engine
    why = "; ".join(f"{python}: {problem}" for python, problem in problems.items() if problem)
    looked = "it is neither in the environment of kt nor in one below KT_HOME/engines"
    raise EnvironmentBroken(
        "SGLang cannot run here" if why else "SGLang is not installed",
        why or looked,
        "use `--engine embedded`, or `kt engine install sglang`",
    )


def judged(machine: Machine) -> Machine:
    """The machine as a plan should see it: an SGLang that cannot serve has that as its problem."""
    engines = tuple(replace(e, problem=defect(e)) if e.name == NAME else e for e in machine.engines)
    return replace(machine, engines=engines)


def defect(engine: Engine) -> str:
    """Why this installation cannot serve a plan, empty when it can."""
    if engine.problem:
        return engine.problem
    if engine.details.get("kt") == "no":
        return f"SGLang {engine.version} has no CPU experts; ktransformers brings one that has"
    broken = engine.details.get("sgl_kernel", "")
    return f"its GPU kernels do not load: {broken}" if broken else ""


def _require_converted(plan: Plan) -> None:
    if needs_conversion(plan):
        method = plan.value("kt_method")
        raise KtError(
            f"the CPU experts are not there as {method}",
            f"{method} does not read the checkpoint itself",
            "give the folder of converted weights by `--weights-path`, or choose a `--kt-method` "
            "that reads the checkpoint; `kt plan` names them",
        )


class Sglang(SglangPlanning, Serving):
    shares_memory = True

    def python_for(self, machine: Machine) -> str:
        return installed(machine).python

    def lower(self, start: Start, python: str) -> LaunchSpec:
        return lower(
            start.plan,
            start.options,
            python,
            start.machine,
            extra=start.extra,
            managed=not start.shown and python != sys.executable,
            with_key=start.with_key,
        )

    def launch(self, start: Start) -> LaunchSpec:
        """Raises KtError too where the experts' weights must be converted first."""
        python = self.python_for(start.machine)
        require_known(start.extra, python)
        _require_converted(start.plan)
        return self.lower(start, python)

    def judged(self, machine: Machine) -> Machine:
        return judged(machine)

    def unsure(self, machine: Machine) -> bool:
        found = (e for e in machine.engines if e.name == NAME)
        return bool(machine.gpus) and any(UNCHECKED in e.details for e in found)

    def require(self, machine: Machine) -> None:
        installed(machine)

    def require_extra(self, extra: Sequence[str], python: str) -> None:
        require_known(extra, python)

    def decode_limit(self, decode: Range, facts: Facts) -> float:
        return super().decode_limit(decode, facts) / (facts.sglang.pace or 1.0)

    def base(self, facts: Facts, *, on_gpu: bool) -> int:
        return facts.sglang.host_base

    def context(self, facts: Facts) -> int:
        return facts.sglang.cuda_context

    def late(self, *, on_gpu: bool, used: bool) -> tuple[Kind, ...]:
        return LATE


ENGINE = Sglang()
