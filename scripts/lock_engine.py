"""Writes presets/engines/locks/NAME.txt: every package of an engine's environment, with its size.

usage: python scripts/lock_engine.py [NAME …]

Resolves the `requires` of presets/engines/environments.yaml with uv for Linux on x86-64. The lines
are requirements as pip and uv read them; the comment behind each is the bytes of its wheel.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from kt_cli.engines.environments import EnvironmentSpec, presets_folder, specs

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PROJECT = """
[project]
name = "engine"
version = "0"
requires-python = "{python}"
dependencies = {requires}
[tool.uv]
environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'"]
"""
HERE = {"platform_machine == 'x86_64'", "sys_platform == 'linux'"}
EXPORT = ("--format=requirements-txt", "--no-hashes", "--no-emit-project", "--no-annotate")


def lock(spec: EnvironmentSpec) -> str:
    with tempfile.TemporaryDirectory() as folder:
        text = PROJECT.format(python=spec.python, requires=list(spec.requires))
        Path(folder, "pyproject.toml").write_text(text, encoding="utf-8")
        subprocess.run(["uv", "lock", "-q"], cwd=folder, check=True)
        command = ["uv", "export", "-q", "--frozen", "--no-header", *EXPORT]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        sizes = wheel_sizes(tomllib.loads(Path(folder, "uv.lock").read_text(encoding="utf-8")))
    lines = [line_of(line, sizes) for line in done.stdout.splitlines() if not left_out(spec, line)]
    made = f"# Python {spec.python}; scripts/lock_engine.py, {datetime.date.today()}"
    return "\n".join([made, *lines]) + "\n"


def left_out(spec: EnvironmentSpec, line: str) -> bool:
    """Where packages bring their own requirements, those of one build of PyTorch are not locked."""
    return spec.resolve and line.startswith(("nvidia-", "triton", "cuda-"))


def wheel_sizes(lock: dict[str, Any]) -> dict[tuple[str, str], int]:
    """(name, version) → bytes of the largest wheel for Linux on x86-64."""
    sizes = {}
    for package in lock["package"]:
        wheels = [w for w in package.get("wheels", []) if suits(w["url"])]
        files = wheels or [package.get("sdist", {})]
        sizes[package["name"], package["version"]] = max(f.get("size", 0) for f in files)
    return sizes


def suits(url: str) -> bool:
    file = url.rpartition("/")[2]
    return file.endswith("-any.whl") or ("x86_64" in file and "musllinux" not in file)


def line_of(line: str, sizes: dict[tuple[str, str], int]) -> str:
    requirement, _, marker = (part.strip() for part in line.partition(";"))
    kept = [m for m in marker.split(" and ") if m and m not in HERE]
    name, _, version = requirement.partition("==")
    when = f" ; {' and '.join(kept)}" if kept else ""
    return f"{requirement}{when}  # {sizes[name, version]}"


def main() -> None:
    names = sys.argv[1:] or [spec.name for spec in specs()]
    folder = presets_folder() / "engines" / "locks"
    for spec in specs():
        if spec.name in names:
            (folder / f"{spec.name}.txt").write_text(lock(spec), encoding="utf-8")


if __name__ == "__main__":
    main()
