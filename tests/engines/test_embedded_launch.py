"""From a plan to the command of the embedded engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kt_cli.core.machine import Core, Cpu, Engine, Machine, Memory
from kt_cli.core.plan import Decision, Plan, Range, Speed
from kt_cli.embedded.__main__ import _parser
from kt_cli.engines import embedded
from kt_cli.errors import EnvironmentBroken, UsageError
from kt_cli.options import RunOptions
from kt_cli.opts import specs

PLAN = Plan(
    model="demo",
    path="/models/demo",
    machine="box",
    engine="embedded",
    pools=(),
    decisions=(
        Decision("host", "127.0.0.1", ""),
        Decision("port", 31000, ""),
        Decision("context", 4096, ""),
        Decision("max_running_requests", 4, ""),
        Decision("kv_tokens", 16384, ""),
        Decision("cpu_threads", 2, ""),
        Decision("device", "cpu", ""),
        Decision("dtype", "fp32", ""),
        Decision("experts_backend", "torch", ""),
        Decision("rules", None, ""),
        Decision("something_else", 1, ""),
    ),
)


def parsed(argv: tuple[str, ...]) -> dict[str, object]:
    assert argv[:3] == ("py", "-m", "kt_cli.embedded")
    return vars(_parser().parse_args(list(argv[3:])))


def test_the_engine_understands_every_decision() -> None:
    args = parsed(embedded.lower(PLAN, RunOptions(), "py").argv)
    assert {name: value for name, value in args.items() if value is not None} == {
        "model": "/models/demo",
        "name": "demo",
        "host": "127.0.0.1",
        "port": 31000,
        "context": 4096,
        "max_batch": 4,
        "threads": 2,
        "device": "cpu",
        "kv_tokens": 16384,
        "dtype": "fp32",
        "experts_backend": "torch",
        "trust_remote_code": False,
        "planned": {"threads": "2", "kv_tokens": "16384"},
    }


def test_wishes_that_are_no_decisions_reach_the_engine() -> None:
    options = RunOptions(served_model_name="tiny", trust_remote_code=True, api_key="secret")
    spec = embedded.lower(PLAN, options, "py", with_key=True)
    args = parsed(spec.argv)
    assert (args["name"], spec.model, args["trust_remote_code"]) == ("tiny", "tiny", True)
    assert args["api_key_env"] == "KT_API_KEY"
    assert "secret" not in " ".join(spec.argv)


def test_patience_grows_with_the_predicted_time() -> None:
    slow = replace(PLAN, speed=Speed(load_s=Range(100, 300)))
    assert embedded.lower(PLAN, RunOptions(), "py").ready_timeout_s == 600
    assert embedded.lower(slow, RunOptions(), "py").ready_timeout_s == 3000


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (RunOptions(tp=2), "--tp"),
        (RunOptions(gpu_experts=0), "--gpu-experts"),
        (RunOptions(numa_nodes=(0, 1)), "--numa-nodes"),
        (RunOptions(attention_backend="triton"), "--attention-backend"),
    ],
)
def test_what_only_sglang_can_do_is_refused_by_name(options: RunOptions, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        embedded.ENGINE.refuse_foreign(options)


def test_what_it_can_do_is_not_refused() -> None:
    engines = {name for spec in specs(RunOptions).values() for name in spec.engines}
    assert engines == {"sglang", "embedded"}
    embedded.ENGINE.refuse_foreign(RunOptions(model="demo", ctx_size=5, rules="x.yaml"))


def machine(*engines: Engine) -> Machine:
    cpu = Cpu("x", "y", (), (Core((0,), 0),), 1, 1)
    return Machine("box", cpu, (), Memory(1, 1), engines=engines)


def complete(python: str) -> tuple[Engine, ...]:
    return tuple(Engine(name, "1", python) for name in embedded.NEEDS)


def test_the_current_interpreter_is_preferred() -> None:
    both = machine(*complete("other"), *complete("current"))
    assert embedded.python_for(both, "current") == "current"
    assert embedded.python_for(machine(*complete("other")), "current") == "other"


def test_what_is_missing_or_broken_is_named() -> None:
    broken = machine(Engine("torch", "2", "current", "SIGILL on import"))
    with pytest.raises(EnvironmentBroken) as caught:
        embedded.python_for(broken, "current")
    assert "torch does not load: SIGILL" in caught.value.why
    assert "transformers is not installed" in caught.value.why


@pytest.mark.parametrize(
    "line",
    [
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: 5 bytes",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "ModuleNotFoundError: No module named 'jinja2'",
        "OSError: [Errno 28] No space left on device",
    ],
)
def test_known_ends_have_a_diagnosis(line: str) -> None:
    assert any(re.search(d.pattern, line) for d in embedded.DIAGNOSES)


def test_packs_and_tuned_kernels_are_kept_below_home(tmp_path: Path) -> None:
    kept = replace(PLAN, decisions=(*PLAN.decisions, Decision("pack_cache", "write", "")))
    spec = embedded.lower(kept, RunOptions(pack_cache_size=5000), "py", home=tmp_path)
    args = parsed(spec.argv)
    assert (args["packs"], args["packs_limit"]) == (tmp_path / "cache" / "packs", 5000)
    assert spec.env["KT_MOE_CACHE"] == str(tmp_path / "cache" / "kernels")


@pytest.mark.parametrize("value", ["off", None])
def test_nothing_is_kept_where_the_plan_does_not_say_so(value: str | None, tmp_path: Path) -> None:
    plain = replace(PLAN, decisions=(*PLAN.decisions, Decision("pack_cache", value, "")))
    assert "--packs" not in embedded.lower(plain, RunOptions(), "py", home=tmp_path).argv


BUFFERS = """
import resource
import numpy as np
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step(): [np.empty(mib << 20, np.uint8).fill(1) for mib in (1, 2, 6, 12)]
for _ in range(4): step()
before = faults()
for _ in range(20): step()
print((faults() - before) / 20)
"""


def test_buffers_of_a_step_are_used_again_by_the_next() -> None:
    """A fresh mapping for each would cost 5376 page faults a step, and half the speed of decode."""
    env = {**os.environ, **embedded.lower(PLAN, RunOptions(), "py").env}
    argv = [sys.executable, "-c", BUFFERS]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100
