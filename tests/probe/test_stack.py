"""Engines are found by name and really loaded in a process that may die of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kt_cli.core.machine import Engine
from kt_cli.probe import stack
from kt_cli.probe.host import Host, Ran, run_tool

KT_MOE = """
print("hello from a noisy import")
__version__ = "0.1.0"
available, why = True, ""
def cpu_info():
    return {"variant": "avx2", "amx_reason": "no AMX"}
"""
PACKAGES = {
    "torch-2.9.1": "__version__ = '2.9.1+cpu'\nclass version: cuda = None\nclass _C: pass\n",
    "transformers_kt-5.6.0.post6": "",
    "kt_kernel-0.7.2": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n",
    "sglang_kt-0.7.2": "raise RuntimeError('dataclass field order\\nmore')\n",
    "kt_cli-0.1.0": KT_MOE,
    "colorama-0.4.6": "",
}
MODULES = {"transformers_kt": "transformers", "sglang_kt": "sglang", "kt_cli": "kt_moe"}


def environment(tmp_path: Path, packages: dict[str, str] = PACKAGES) -> stack.Environment:
    """An interpreter that sees just these packages."""
    site = tmp_path / "site"
    for name, source in packages.items():
        project = name.partition("-")[0]
        folder = site / MODULES.get(project, project)
        folder.mkdir(parents=True)
        (site / f"{name}.dist-info").mkdir()
        (folder / "__init__.py").write_text(source)
        (folder / "modeling_utils.py").write_text("")
    python = tmp_path / "python"
    # -S: an editable installation would put its own packages before these.
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return stack.Environment("", str(python), (site,))


def by_name(engines: Sequence[Engine]) -> dict[str, Engine]:
    return {engine.name: engine for engine in engines}


def test_the_cheap_look_starts_no_process(tmp_path: Path) -> None:
    def refuse(argv: Sequence[str], timeout: float) -> Ran:
        raise AssertionError("nothing may run")

    found = by_name(stack.read(Host(run=refuse), [environment(tmp_path)]))
    versions = {name: engine.version for name, engine in found.items()}
    assert versions == {
        "torch": "2.9.1",
        "transformers": "5.6.0.post6",
        "kt_moe": "0.1.0",
        "kt_kernel": "0.7.2",
        "sglang": "0.7.2",
    }
    assert found["sglang"].details["distribution"] == "sglang-kt"
    assert all(stack.UNCHECKED in engine.details for engine in found.values())


def test_a_package_that_does_not_know_its_version_has_that_of_its_distribution(
    tmp_path: Path,
) -> None:
    packages = {"kt_kernel-0.7.2": "__version__ = '0.0.0.dev0'\n"}
    (found,) = stack.read(Host(), [environment(tmp_path, packages)], deep=True)
    assert (found.version, found.problem) == ("0.7.2", "")


def test_the_deep_look_survives_what_the_packages_do(tmp_path: Path) -> None:
    found = by_name(stack.read(Host(), [environment(tmp_path)], deep=True))
    assert {name: engine.problem for name, engine in found.items()} == {
        "torch": "",
        "transformers": "",
        "kt_moe": "",
        "kt_kernel": "import died of SIGILL (illegal instruction)",
        "sglang": "RuntimeError: dataclass field order",
    }
    assert found["torch"].version == "2.9.1+cpu"
    assert found["kt_moe"].details == {
        **{"distribution": "kt-cli", "available": "True", "variant": "avx2", "amx": "no AMX"}
    }
    assert not any(stack.UNCHECKED in engine.details for engine in found.values())


def test_an_import_that_hangs_is_a_finding(tmp_path: Path) -> None:
    def impatient(argv: Sequence[str], timeout: float) -> Ran:
        return run_tool(argv, 4 if "torch" in argv else timeout)

    slow = {"torch-1": "import time\ntime.sleep(60)\n", "kt_cli-1": KT_MOE}
    found = by_name(stack.read(Host(run=impatient), [environment(tmp_path, slow)], deep=True))
    assert {n: e.problem for n, e in found.items()} == {
        "torch": "import took too long",
        "kt_moe": "",
    }


def test_a_package_that_exits_is_a_finding(tmp_path: Path) -> None:
    rude = {"torch-1": "import os\nos._exit(0)\n"}
    (engine,) = stack.read(Host(), [environment(tmp_path, rude)], deep=True)[:1]
    assert engine.problem == "import ended the process"


def test_a_broken_interpreter_is_a_finding(tmp_path: Path) -> None:
    broken = environment(tmp_path)
    Path(broken.python).write_text("#!/bin/sh\nexit 3\n")
    found = stack.read(Host(), [broken], deep=True)
    assert {e.problem for e in found} == {"the interpreter exited with code 3"}


def test_results_are_kept_until_the_environment_changes(tmp_path: Path) -> None:
    runs = []

    def counted(argv: Sequence[str], timeout: float) -> Ran:
        runs.append(argv)
        return run_tool(argv, timeout)

    host, place, cache = Host(run=counted), environment(tmp_path), tmp_path / "cache"
    first = stack.read(host, [place], deep=True, cache=cache)
    again = len(runs)
    assert stack.read(host, [place], deep=True, cache=cache) == first
    assert stack.read(host, [place], cache=cache) == first
    assert len(runs) == again
    (place.sites[0] / "new_package").mkdir()
    stack.read(host, [place], deep=True, cache=cache)
    assert len(runs) > again


def test_results_are_those_of_the_kernels_that_were_asked_for(tmp_path: Path) -> None:
    chosen = {"kt_cli-1": "import os\nwhy = os.environ.get('KT_ISA', 'none')\nraise OSError(why)\n"}
    place, cache = environment(tmp_path, chosen), tmp_path / "cache"

    def problem(**env: str) -> str:
        def run(argv: Sequence[str], timeout: float) -> Ran:
            return run_tool(("env", *(f"{k}={v}" for k, v in env.items()), *argv), timeout)

        found = stack.read(Host(run=run, env=env), [place], deep=True, cache=cache)
        return by_name(found)["kt_moe"].problem

    assert [problem(KT_ISA="foo"), problem(), problem(KT_ISA="avx2")] == [
        "OSError: foo",
        "OSError: none",
        "OSError: avx2",
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"PYTHON": 3}', '{"PYTHON": {"key": "x"}}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, content: str) -> None:
    place, cache = environment(tmp_path), tmp_path / "cache"
    cache.mkdir()
    (cache / "engines.json").write_text(content.replace("PYTHON", place.python))
    assert by_name(stack.read(Host(), [place], deep=True, cache=cache))["torch"].problem == ""


def test_managed_environments_are_found_and_isolated(tmp_path: Path) -> None:
    folder = tmp_path / "engines" / "sglang-kt"
    site = folder / "lib" / "python3.11" / "site-packages"
    (site / "sglang_kt-0.7.2.dist-info").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text("")
    own, managed = stack.environments(tmp_path)
    assert (own.name, own.python) == ("", sys.executable)
    assert managed.name == "sglang-kt"
    assert managed.argv == (str(folder / "bin" / "python"), "-E", "-s")
    assert stack.distributions(managed) == {"sglang-kt": "0.7.2"}


def test_versions_with_dashes_and_python_tags(tmp_path: Path) -> None:
    for name in ("a_b-1.0.dist-info", "old-2.1-py3.9.egg-info", "no_version.dist-info"):
        (tmp_path / name).mkdir()
    found = stack.distributions(stack.Environment("", "python", (tmp_path,)))
    assert found == {"a-b": "1.0", "old": "2.1", "no-version": ""}
