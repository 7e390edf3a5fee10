"""Which bodies of the kernels are tested on this CPU; no call reaches one that it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe._native import core

from .conftest import RUN, VARIANTS
from .helpers import error, from_bf16, random_case, random_low_rank, random_matrices, to_bf16

SHIM = "_shim"
BODIES = ("avx2", "avx512_base", "avx512_vnni", "avx512_bf16", "amx")
FOR_ALL = {"avx2": "avx2", "avx512": "avx512_base", "amx": "amx"}


def lacks() -> dict[str, str]:
    return dict(kt_moe.cpu_info()["lacks"])


def test_every_body_is_tested_here_or_named() -> None:
    """Skipped with the names of those that are not: without AVX-512 or AMX, build with KT_SHIMS."""
    known = {name.removesuffix(SHIM) for name in (*RUN, *lacks())}
    assert known == set(BODIES)
    tested = {name.removesuffix(SHIM) for name in VARIANTS}
    untested = [f"{name} (lacks {lacks()[name]})" for name in BODIES if name not in tested]
    if untested:
        pytest.skip(f"not tested on this CPU: {'; '.join(untested)}")


def test_what_the_cpu_lacks_is_refused() -> None:
    before = kt_moe.cpu_info()["variant"]
    for name, missing in lacks().items():
        with pytest.raises(kt_moe.IsaError, match=missing.split(",")[0]):
            kt_moe.use_isa(name)
        assert kt_moe.cpu_info()["variant"] == before


def test_emulation_is_chosen_by_its_full_name_only() -> None:
    for wanted in ("", *FOR_ALL):
        try:
            assert not kt_moe.use_isa(wanted).endswith(SHIM)
        except kt_moe.IsaError:
            assert wanted and not any(name.startswith(wanted) for name in RUN if SHIM not in name)
    kt_moe.use_isa("")


def chosen(isa: str) -> list[str]:
    """What a process chooses that has KT_ISA, and a result of its kernels."""
    code = (
        "import kt_moe, numpy as np\n"
        "m = [np.full((1, 64, 64), 1 / 64, np.float32)] * 3\n"
        "e = kt_moe.Experts.from_weights(*m, format='int8', top_k=1)\n"
        "one = np.ones((1, 1), np.float32)\n"
        "y = e.forward(np.ones((1, 64), np.float32), np.zeros((1, 1), np.int32), one)\n"
        "print(kt_moe.cpu_info()['variant'], round(float(y[0, 0]), 2))\n"
    )
    paths = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"KT_ISA": isa, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_each_variant_is_chosen_by_kt_isa() -> None:
    for name in RUN:
        assert chosen(name) == [name, "0.73"]


def originals() -> list[tuple[str, str]]:
    return [(name, name + SHIM) for name in RUN if name + SHIM in RUN]


def test_emulation_computes_what_the_cpu_does(rng: np.random.Generator) -> None:
    """Bit for bit, but for products in bf16, whose sums the CPU rounds in an order of its own."""
    if not originals():
        pytest.skip("no variant runs here in both ways")
    for (real, shim), fmt in product(originals(), core().formats()):
        experts = kt_moe.Experts.from_weights(
            *random_matrices(rng, 3, 136, 72), format=fmt, top_k=2
        )
        low_rank = random_low_rank(rng, 3, 136, 72, 2)
        for tokens in (1, 2, 9, 40):
            case = random_case(rng, tokens, 136, 3, 2)
            routing = case.ids, case.weights
            results = []
            for isa in (real, shim):
                kt_moe.use_isa(isa)
                kt_moe.limits.set_tile_from(4)
                half = experts.forward(to_bf16(case.x), *routing)
                results.append(
                    [
                        experts.forward(case.x, *routing),
                        from_bf16(half),
                        *experts.backward(case.x, *routing, case.x),
                        experts.forward_low_rank(case.x, *routing, low_rank, 0.5),
                    ]
                )
            for one, other in zip(*results, strict=True):
                assert error(one, other) < 2e-3, (real, fmt, tokens)
            if fmt != "bf16":
                np.testing.assert_array_equal(
                    results[0][0], results[1][0], str((real, fmt, tokens))
                )
    kt_moe.limits.set_tile_from(0)
    kt_moe.use_isa("")


def test_packing_is_the_same_everywhere(tmp_path: Path, rng: np.random.Generator) -> None:
    matrices = random_matrices(rng, 2, 136, 72)
    for fmt in core().formats():
        packed = []
        for name in RUN:
            kt_moe.use_isa(name)
            experts = kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=1)
            packed.append(experts._packed.data().copy())
        for name, data in zip(RUN, packed, strict=True):
            close = np.count_nonzero(data != packed[0]) <= 0.01 * data.size
            assert close, (fmt, name)
    kt_moe.use_isa("")
