"""Predicted against measured memory: random models are started, filled, and asked for.

usage: python scripts/memory_scoreboard.py [--device cuda] [--loads 3] [--threads N]
       [--folder DIR] [CASE …]

A CASE is shape:context:method, such as qwen-7g:8192:INT4, or demo:8192:BF16. The default set needs
25 GB of RAM and 45 GB of disk; DIR keeps the models.
Prints a Markdown table: the middle of the loads and how far they lie apart.
Nothing that earlier loads taught the planner is used.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import random_model

CASES = (
    "demo:8192:BF16",
    "qwen-1g:2048:BF16",
    "qwen-1g:32768:INT4",
    "deepseek-3g:2048:BF16",
    "qwen-3g:8192:INT8",
    "qwen-7g:8192:BF16",
    "qwen-7g:32768:INT4",
    "deepseek-8g:8192:BF16",
    "qwen-18g:2048:BF16",
    "qwen-18g:8192:INT8",
)
ANSWER = 16
"""Tokens generated after the prompt."""


@dataclass(frozen=True, slots=True)
class Case:
    shape: str
    context: int
    method: str

    @classmethod
    def of(cls, text: str) -> Case:
        shape, context, method = text.split(":")
        return cls(shape, int(context), method)


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes; the GPU's are 0 on the CPU."""

    expected: int
    measured: int
    expected_gpu: int
    measured_gpu: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of the server")
    parser.add_argument("--folder", type=Path, default=Path("build/scoreboard"))
    options = parser.parse_args()
    print("| model | method | context | where | predicted | measured | error |")
    print("|---|---|---|---|---|---|---|", flush=True)
    inside = True
    for case in map(Case.of, options.cases):
        for line, good in rows(case, options):
            print(line, flush=True)
            inside &= good
    return int(not inside)


def rows(case: Case, options: argparse.Namespace) -> Iterator[tuple[str, bool]]:
    results = [load(case, options) for _ in range(options.loads)]
    host = [(r.expected, r.measured) for r in results]
    yield row(case, "host", host, 150e6)
    if options.device != "cpu":
        yield row(case, "GPU", [(r.expected_gpu, r.measured_gpu) for r in results], 256 * 2**20)


def row(case: Case, where: str, pairs: Sequence[tuple[int, int]], least: float) -> tuple[str, bool]:
    predicted, measured = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    spread = max(p[1] for p in pairs) - min(p[1] for p in pairs)
    off = predicted - measured
    good = all(abs(p - m) <= max(least, 0.03 * m) for p, m in pairs)
    cells = [case.shape, case.method, case.context, where, f"{predicted / 1e6:.0f} MB"]
    cells.append(f"{measured / 1e6:.0f} MB ± {spread / 2e6:.0f}")
    cells.append(f"{off / 1e6:+.0f} MB, {100 * off / measured:+.1f} %{'' if good else ', missed'}")
    return f"| {' | '.join(map(str, cells))} |", good


def load(case: Case, options: argparse.Namespace) -> Result:
    """One load: started, filled, compared, stopped."""
    folder: Path = options.folder
    home = folder / "home"
    shutil.rmtree(home / "history", ignore_errors=True)
    demo = case.shape == "demo"
    model = "demo" if demo else str(random_model.make(case.shape, folder / case.shape).absolute())
    asked = [model, "--ctx-size", str(case.context), "--kt-method", case.method]
    asked += ["--device", options.device, "--engine", "embedded"]
    asked += ["--cpu-threads", str(options.threads)] if options.threads else []
    asked += ["--port", str(free_port())]
    kt(home, "run", *asked, "-d")
    try:
        fill(asked[-1], case.context)
        return result(json.loads(kt(home, "plan", *asked, "--check", "--json"))["outcome"])
    finally:
        kt(home, "stop", "--all")


def result(outcome: dict[str, Any]) -> Result:
    gpu = outcome.get("expected_vram") or 0, outcome.get("vram") or 0
    return Result(outcome["expected"], outcome["resident"], *gpu)


def fill(port: str, context: int) -> None:
    prompt = [1 + place * 7919 % 250 for place in range(context - ANSWER)]
    model = json.loads(ask(port, "/v1/models"))["data"][0]["id"]
    wanted = {"model": model, "prompt": prompt, "max_tokens": ANSWER, "ignore_eos": True}
    ask(port, "/v1/completions", json.dumps(wanted).encode())


def ask(port: str, path: str, data: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=900) as answer:
        body: bytes = answer.read()
    return body


def kt(home: Path, *command: str) -> str:
    environment = {**os.environ, "KT_HOME": str(home.absolute()), "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "kt_cli", *command]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
