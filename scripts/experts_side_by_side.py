"""The demo with its experts on our kernels and on PyTorch, measured in turns.

usage: [KT_ISA=avx2] python scripts/experts_side_by_side.py [--threads N] [--rounds 9]
       [--method BF16] [--prompt 512]

`KT_ISA` holds the kernels, PyTorch, oneDNN and MKL to a smaller CPU. Prints tokens/s of both, the
middle of the rounds, and the middle of the ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path

from served_decode import plain

from kt_cli.catalog import demo
from kt_cli.environment import kt_home

ANSWER = 48
Engine = Callable[[list[int], int], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--method", default="BF16")
    parser.add_argument("--prompt", type=int, default=512)
    asked = parser.parse_args()
    demo.ensure(kt_home())
    folder: Path = demo.folder_of(kt_home())
    kernels = {"experts_backend": "kt_moe", "experts_format": asked.method.lower()}
    torch = {"experts_backend": "torch"}
    with (
        plain(folder, asked.threads, kernels) as ours,
        plain(folder, asked.threads, torch) as theirs,
    ):
        for name, measure in (("prefill", prefill), ("decode", decode)):
            turns = range(asked.rounds + 1)
            pairs = [(measure(ours, asked.prompt), measure(theirs, asked.prompt)) for _ in turns][
                1:
            ]
            a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
            ratio = statistics.median(x / y for x, y in pairs)
            print(f"{name}: kernels {a:.1f} tok/s, PyTorch {b:.1f}, ratio {ratio:.2f}", flush=True)


def prefill(engine: Engine, prompt: int) -> float:
    return prompt / engine(fresh(prompt), 1)


def decode(engine: Engine, _: int) -> float:
    prompt = fresh(32)
    first = engine(prompt, 1)
    return ANSWER / (engine(prompt, ANSWER + 1) - first)


def fresh(count: int) -> list[int]:
    """No earlier prompt begins like it, so nothing of it is cached."""
    return [random.randrange(300, 40000) for _ in range(count)]


if __name__ == "__main__":
    main()
