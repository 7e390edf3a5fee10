"""From a plan to the command of SGLang, on preset machines and models."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kt_cli.catalog.names import lookup
from kt_cli.catalog.presets import planned_presets, preset_model
from kt_cli.core.adapter import Adapter
from kt_cli.core.machine import Core, Cpu, Engine, Gpu, Machine, Memory
from kt_cli.core.plan import Decision, Plan, Range, Speed
from kt_cli.core.plan_run import plan_run
from kt_cli.core.what_if import completed
from kt_cli.engines import sglang
from kt_cli.engines.facts import presets_folder, read_facts, read_gpus
from kt_cli.errors import EnvironmentBroken
from kt_cli.options import RunOptions
from kt_cli.probe import toml

PRESETS = planned_presets()
FACTS = read_facts()
GOLDEN = Path(__file__).parent / "sglang"

KNOWN = {
    "--max-mamba-cache-size",
    "--model-path",
    "--served-model-name",
    "--host",
    "--port",
    "--context-length",
    "--max-running-requests",
    "--max-total-tokens",
    "--kv-cache-dtype",
    "--tensor-parallel-size",
    "--mem-fraction-static",
    "--chunked-prefill-size",
    "--attention-backend",
    "--sampling-backend",
    "--quantization",
    "--fp8-gemm-backend",
    "--moe-runner-backend",
    "--tool-call-parser",
    "--reasoning-parser",
    "--enable-p2p-check",
    "--kt-weight-path",
    "--kt-method",
    "--kt-cpuinfer",
    "--kt-threadpool-count",
    "--kt-numa-nodes",
    "--kt-num-gpu-experts",
    "--kt-max-deferred-experts-per-token",
    "--kt-gpu-prefill-token-threshold",
    "--disable-shared-experts-fusion",
    "--watchdog-timeout",
    "--enable-metrics",
    "--trust-remote-code",
}
"""Of the parser of sglang-kt 0.7.2, those that a plan may use."""


def hardware(name: str) -> Machine:
    return completed(toml.load(presets_folder() / "machines" / f"{name}.toml"), read_gpus())


def planned(machine: Machine, name: str, **wishes: Any) -> tuple[Plan, RunOptions]:
    found = lookup(name, PRESETS)
    assert found
    options = RunOptions(model=name, **wishes)
    model = preset_model(*found)
    plan = plan_run(machine, model, options, FACTS, hints=found[0].hints)
    return replace(plan, path=f"/models/{model.name}"), options


def lowered(on: str, name: str, **wishes: Any) -> list[str]:
    machine = hardware(on)
    plan, options = planned(machine, name, **wishes)
    assert plan.engine == "sglang"
    return list(sglang.lower(plan, options, "python", machine).argv)


def flags(argv: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in argv[3:]:
        if word.startswith("--"):
            assert word not in found, f"{word} stands there twice"
            found[word] = []
        else:
            found[[*found][-1]].append(word)
    return found


CASES = [
    ("4090+2x6454s", "qwen3-30b", {}),
    ("4090+2x6454s", "r1", {}),
    ("8xl20+6454s", "k2", {}),
    ("h100+16c-emr", "qwen3-30b", {"kt_method": "AMXINT8", "weights_path": "/int8"}),
    ("2x5090+2x9355", "deepseek-v2-lite", {}),
]


@pytest.mark.parametrize(("on", "name", "wishes"), CASES, ids=lambda x: str(x))
def test_the_command_is_the_one_that_was_looked_at(on: str, name: str, wishes: Any) -> None:
    """KT_GOLDEN=write writes the files anew."""
    argv = lowered(on, name, **wishes)
    text = "\n".join([" ".join(argv[:3]), *(" ".join([f, *v]) for f, v in flags(argv).items())])
    file = GOLDEN / f"{on}-{name}.txt"
    if os.environ.get("KT_GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text + "\n"


@pytest.mark.parametrize("on", ["4090+2x6454s", "2x5090+2x9355", "8xl20+6454s", "h100+16c-emr"])
def test_no_trap_is_stepped_in_by_any_preset(on: str) -> None:
    machine = hardware(on)
    for preset in PRESETS:
        plan, options = planned(machine, preset.name)
        if plan.engine != "sglang":
            continue
        given = flags(list(sglang.lower(plan, options, "python", machine).argv))
        assert set(given) <= KNOWN
        assert int(given["--max-total-tokens"][0]) > 0
        assert int(given["--chunked-prefill-size"][0]) % 32 == 0
        kt = {flag for flag in given if flag.startswith("--kt-")}
        if not kt:
            assert plan.value("kt_method") is None
            continue
        assert {"--kt-weight-path", "--kt-cpuinfer", "--kt-num-gpu-experts"} <= kt
        assert int(given["--kt-threadpool-count"][0]) == len(given["--kt-numa-nodes"])
        threshold = given.get("--kt-gpu-prefill-token-threshold")
        assert not threshold or int(threshold[0]) <= int(given["--chunked-prefill-size"][0])


def test_all_experts_on_the_gpu_need_no_kt_flags() -> None:
    argv = lowered("h100+16c-emr", "deepseek-v2-lite")
    assert not [word for word in argv if word.startswith("--kt-")]
    assert "--disable-shared-experts-fusion" not in argv


def test_remote_code_runs_with_consent_only() -> None:
    assert "--trust-remote-code" not in lowered("4090+2x6454s", "k2")
    assert "--trust-remote-code" in lowered("4090+2x6454s", "k2", trust_remote_code=True)


def test_the_cache_keeps_the_models_type_unless_fp8_is_asked_for() -> None:
    assert flags(lowered("4090+2x6454s", "r1"))["--kv-cache-dtype"] == ["auto"]
    made = flags(lowered("4090+2x6454s", "r1", kv_cache_dtype="fp8"))
    assert made["--kv-cache-dtype"] == ["fp8_e4m3"]


def box(*engines: Engine, gpus: int = 2) -> Machine:
    cards = tuple(Gpu(i, "GPU", "nvidia", 24, 24, uuid=f"GPU-{i}{i}") for i in range(gpus))
    cpu = Cpu("x", "y", (), (Core((0,), 0),), 1, 1)
    return Machine("box", cpu, (), Memory(1, 1), gpus=cards, engines=engines)


PLAN = Plan(
    "m", "/m", "box", "sglang", (),
    (Decision("gpus", (1, 0), ""), Decision("kv_tokens", 5, ""), Decision("port", 31000, "")),
)  # fmt: skip


def test_gpus_are_named_by_uuid_in_the_plans_order() -> None:
    env = sglang.lower(PLAN, RunOptions(), "py", box()).env
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-11,GPU-00"
    assert env["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert env["SGLANG_ENABLE_JIT_DEEPGEMM"] == "0"
    assert "PYTHONPATH" not in env


def test_a_managed_interpreter_sees_its_own_packages_only() -> None:
    env = sglang.lower(PLAN, RunOptions(), "py", box(), managed=True).env
    assert (env["PYTHONPATH"], env["PYTHONNOUSERSITE"]) == ("", "1")


def test_flags_passed_through_win_over_the_plans() -> None:
    extra = ("--sampling-backend", "pytorch", "--max-total-tokens=7", "--log-level", "debug")
    argv = sglang.lower(PLAN, RunOptions(), "py", box(), extra=extra).argv
    assert argv[-5:] == extra
    assert "--max-total-tokens" not in argv and "5" not in argv


def test_patience_is_long_and_grows_with_the_load() -> None:
    assert sglang.lower(PLAN, RunOptions(), "py", box()).ready_timeout_s == 1800
    slow = replace(PLAN, speed=Speed(load_s=Range(100, 300)))
    assert sglang.lower(slow, RunOptions(), "py", box()).ready_timeout_s == 3000


STAND_IN = """
from dataclasses import dataclass
@dataclass
class ServerArgs:
    api_key: str = ""
"""
SERVER = """
import sys
from sglang.srt.server_args import ServerArgs
args = ServerArgs(sys.argv[sys.argv.index("--api-key") + 1])
print(f"{args=}")
print(len(args.api_key), __name__, sys.argv[1:3])
"""


def test_a_key_reaches_sglang_but_neither_its_command_line_nor_its_log(tmp_path: Path) -> None:
    package = tmp_path / "sglang" / "srt"
    package.mkdir(parents=True)
    for name, text in {"../__init__": "", "__init__": "", "server_args": STAND_IN}.items():
        (package / f"{name}.py").write_text(text)
    (package.parent / "launch_server.py").write_text(SERVER)
    spec = sglang.lower(PLAN, RunOptions(api_key="secret"), sys.executable, box(), with_key=True)
    assert "secret" not in " ".join([*spec.argv, *spec.env.values()])
    env = {**os.environ, **spec.env, "KT_API_KEY": "secret", "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(spec.argv, env=env, capture_output=True, text=True, check=True)
    assert ran.stdout == ("args=ServerArgs(api_key='***')\n6 __main__ ['--model-path', '/m']\n")


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ((), "KT_HOME/engines"),
        ((Engine("sglang", "1", "/e/py", "SIGILL on import"),), "/e/py: SIGILL on import"),
        ((Engine("sglang", "1", "/e/py", details={"kt": "no"}),), "no CPU experts"),
        ((Engine("sglang", "1", "/e/py", details={"sgl_kernel": "libcuda"}),), "libcuda"),
    ],
)
def test_what_is_wrong_with_sglang_is_named(engines: tuple[Engine, ...], words: str) -> None:
    with pytest.raises(EnvironmentBroken) as caught:
        sglang.installed(box(*engines))
    assert words in caught.value.why
    assert "--engine embedded" in caught.value.fix and "kt engine install" in caught.value.fix
    problems = [e.problem for e in sglang.judged(box(*engines)).engines]
    assert all(problems)


def test_the_installation_that_works_is_taken() -> None:
    broken, good = Engine("sglang", "1", "a", "no"), Engine("sglang", "1", "b")
    assert sglang.installed(box(broken, good)).python == "b"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Either kt_num_gpu_experts or kt_gpu_experts_ratio is required but not set.", "left the"),
        ("RuntimeError: AMXINT8 backend not available. Required ISA: avx512f", "cannot run"),
        ("ValueError: Method 'FOO' not supported for inference mode", "does not know the method"),
        ("FileNotFoundError: Path not found: /x", "not where"),
        ("Not enough memory. Please try to increase --mem-fraction-static", "KV cache"),
        ("Exception: Capture cuda graph failed: CUDA out of memory", "captured"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to", "the GPU ran out"),
        ("[Errno 98] error while attempting to bind on address", "took the port"),
        ("launch_server.py: error: unrecognized arguments: --foo", "one of its flags"),
        ("ImportError: kt_kernel is not installed. To use KTransformers", "kt-kernel is not"),
        ("huggingface_hub.errors.HFValidationError: Repo id must be in", "find the model"),
        ("Received sigquit from a child process. It usually means", "ended itself"),
    ],
)
def test_the_first_diagnosis_that_matches_tells_most(line: str, words: str) -> None:
    found = next(d for d in sglang.DIAGNOSES if re.search(d.pattern, line))
    assert words in found.what


def test_stages_only_go_forward() -> None:
    fractions = [stage.fraction for stage in sglang.STAGES]
    assert fractions == sorted(fractions)


def test_an_adapter_is_served_without_graphs_and_gpu_experts() -> None:
    machine = hardware("4090+2x6454s")
    found = lookup("qwen3-30b", PRESETS)
    assert found
    adapter = Adapter("mine", "/tuned", 8, 10**9, 10**8)
    options = RunOptions(model="qwen3-30b", lora="mine=/tuned")
    plan = plan_run(machine, preset_model(*found), options, FACTS, adapter=adapter)
    given = flags(list(sglang.lower(plan, options, "python", machine).argv))
    assert given["--lora-paths"] == ["mine=/tuned"]
    assert {"--enable-lora", "--disable-cuda-graph"} <= set(given)
    assert given["--kt-num-gpu-experts"] == ["0"]
    assert "--kt-gpu-prefill-token-threshold" not in given
