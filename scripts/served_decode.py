"""Decode speed of one engine in a plain process and behind `kt run`, started in turns.

usage: python scripts/served_decode.py [SHAPE] [--method INT8] [--threads N] [--rounds 3]
       [--tokens 64] [--folder DIR]

SHAPE is one of scripts/random_model.py. Only one of the two runs at a time.
Prints tokens/s of both and their ratio, the middle of the rounds; ends with 1 beyond 3 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import memory_scoreboard as server
import random_model

Measure = Callable[[int], float]
"""Seconds from a prompt to so many tokens."""
PROMPT = list(range(3, 35))
ALIKE = 0.03

PLAIN = """
import json, os, sys, time
from pathlib import Path
from kt_cli.embedded.__main__ import _prepare_environment
folder, threads, chosen = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
_prepare_environment(threads)
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling
made = engine.load(Path(folder), model_name="plain", context=4096, max_batch=4, threads=threads,
                   progress=lambda *_: None, **chosen)
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    began = time.perf_counter()
    sampling = Sampling(temperature=0, max_tokens=asked["tokens"], ignore_eos=True)
    for chunk in made.submit(asked["prompt"], sampling): pass
    print(time.perf_counter() - began, flush=True)
os._exit(0)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", nargs="?", default="qwen-3g")
    parser.add_argument("--method", default="INT8")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("build/scoreboard"))
    asked = parser.parse_args()
    model = random_model.make(asked.shape, asked.folder / asked.shape).absolute()
    pairs = [turn(model, asked) for _ in range(asked.rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    first, second = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    print(
        f"{asked.shape} {asked.method}, {asked.threads} threads: plain process {first:.1f} tok/s,"
    )
    print(f"through kt run {second:.1f} tok/s, ratio {ratio:.3f}")
    return int(abs(ratio - 1) > ALIKE)


def turn(model: Path, asked: argparse.Namespace) -> tuple[float, float]:
    """Tokens/s of the plain process and of the server, each alone on the machine."""
    chosen = {"experts_format": asked.method.lower()}
    with plain(model, asked.threads, chosen) as measure:
        alone = speed(partial(measure, PROMPT), asked)
    with served(model, asked) as measure:
        return alone, speed(measure, asked)


def speed(measure: Measure, asked: argparse.Namespace) -> float:
    """Tokens/s after the first, so that the prompt and the request itself do not count: the middle
    of three, after one that is not counted."""
    tries = [asked.tokens / (measure(asked.tokens + 1) - measure(1)) for _ in range(4)]
    return statistics.median(tries[1:])


@contextmanager
def plain(
    model: Path, threads: int, chosen: dict[str, str]
) -> Iterator[Callable[[list[int], int], float]]:
    """Seconds that a prompt and so many tokens take; `chosen` are options of `engine.load`."""
    argv = [sys.executable, "-c", PLAIN, str(model), str(threads), json.dumps(chosen)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin and process.stdout
    stdin, stdout = process.stdin, process.stdout

    def measure(prompt: list[int], tokens: int) -> float:
        stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        stdin.flush()
        return float(stdout.readline())

    try:
        while stdout.readline() != "ready\n":
            if process.poll() is not None:
                raise SystemExit("the plain process ended")
        yield measure
    finally:
        stdin.close()
        process.wait()


@contextmanager
def served(model: Path, asked: argparse.Namespace) -> Iterator[Measure]:
    home, port = asked.folder / "home", str(server.free_port())
    flags = ["--ctx-size", "4096", "--kt-method", asked.method, "--cpu-threads", str(asked.threads)]
    flags += ["--engine", "embedded", "--name", "served", "--port", port]
    server.kt(home, "run", str(model), *flags, "-d")

    def measure(tokens: int) -> float:
        wanted = {"model": model.name, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
        data = json.dumps({**wanted, "ignore_eos": True}).encode()
        began = time.perf_counter()
        server.ask(port, "/v1/completions", data)
        return time.perf_counter() - began

    try:
        yield measure
    finally:
        server.kt(home, "stop", "served")


if __name__ == "__main__":
    sys.exit(main())
