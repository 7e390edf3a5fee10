"""What callers see: dtypes, errors that name the fact, background calls, threads, fork."""

from __future__ import annotations

import os
import subprocess
import sys

import kt_moe
import numpy as np
import pytest

from .helpers import Case, Matrices, dequantised, error, random_case, random_matrices, reference


@pytest.fixture
def matrices(rng: np.random.Generator) -> Matrices:
    return random_matrices(rng, 4, 96, 64)


@pytest.fixture
def experts(matrices: Matrices) -> kt_moe.Experts:
    return kt_moe.Experts.from_weights(*matrices, format="int8", top_k=2)


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    return random_case(rng, 5, 96, 4, 2)


def call(experts: kt_moe.Experts, case: Case, **changed: object) -> np.ndarray:
    given = {"x": case.x, "ids": case.ids, "weights": case.weights} | changed
    return experts.forward(**given)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"x": np.zeros((5, 95), np.float32)}, r"x has shape \[5, 95\], not \[5, 96\]"),
        ({"x": np.zeros((96, 5), np.float32).T}, "x must be contiguous"),
        ({"ids": np.zeros((5, 3), np.int32)}, r"ids has shape \[5, 3\], not \[5, 2\]"),
        ({"ids": np.full((5, 2), 4, np.int32)}, "expert id 4 of token 0 is out of range"),
        ({"ids": np.full((5, 2), -2, np.int64)}, "expert id -2"),
        ({"mask": np.zeros(3, bool)}, r"mask has shape \[3\], not \[4\]"),
        ({"out": np.zeros((4, 96), np.float32)}, "out has shape"),
    ],
)
def test_wrong_values_are_named(
    experts: kt_moe.Experts, case: Case, changed: dict[str, object], fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        call(experts, case, **changed)


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"x": np.zeros((5, 96))}, "x is float64"),
        ({"ids": np.zeros((5, 2), np.int16)}, "ids are int16"),
        ({"weights": np.zeros((5, 2), np.float16)}, "weights must be float32"),
        ({"out": np.zeros((5, 96), np.float16)}, "out and x differ in dtype"),
        ({"x": [[0.0] * 96] * 5}, "x must be"),
    ],
)
def test_wrong_types_are_named(
    experts: kt_moe.Experts, case: Case, changed: dict[str, object], fact: str
) -> None:
    with pytest.raises(TypeError, match=fact):
        call(experts, case, **changed)


def test_a_failed_call_leaves_the_next_one_right(experts: kt_moe.Experts, case: Case) -> None:
    before = call(experts, case)
    with pytest.raises(ValueError, match="out of range"):
        call(experts, case, ids=np.full((5, 2), 99, np.int32))
    np.testing.assert_array_equal(call(experts, case), before)


def test_from_weights_checks(matrices: Matrices) -> None:
    gate, up, down = matrices
    make = kt_moe.Experts.from_weights
    with pytest.raises(ValueError, match="format must be one of"):
        make(gate, up, down, format="int5", top_k=2)
    with pytest.raises(ValueError, match="down has shape"):
        make(gate, up, gate, format="int8", top_k=2)
    with pytest.raises(ValueError, match="group must be"):
        make(gate, up, down, format="int4", group=48, top_k=2)
    with pytest.raises(TypeError, match="uint16"):
        make(*(np.zeros(m.shape, np.uint16) for m in matrices), format="bf16", top_k=2)
    with pytest.raises(TypeError, match="float64"):
        make(*(m.astype(np.float64) for m in matrices), format="bf16", top_k=2)


@pytest.mark.parametrize("fmt", ["bf16", "int8", "int4"])
def test_weights_that_are_not_finite_are_refused(matrices: Matrices, fmt: str) -> None:
    matrices[1][2, 3, 5] = np.nan
    with pytest.raises(ValueError, match="up weights of expert 2 hold NaN"):
        kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=2)


def test_torch_in_torch_out(matrices: Matrices, case: Case) -> None:
    torch = pytest.importorskip("torch")
    tensors = [torch.from_numpy(m).bfloat16() for m in matrices]
    experts = kt_moe.Experts.from_weights(*tensors, format="bf16", top_k=2)
    x = torch.from_numpy(case.x).bfloat16().requires_grad_()
    got = experts.forward(x, torch.from_numpy(case.ids), torch.from_numpy(case.weights))
    assert got.dtype == torch.bfloat16
    exact = Case(x.detach().float().numpy(), case.ids, case.weights)
    assert error(got.float().numpy(), reference(dequantised(experts), exact)) < 8e-3


def test_submit_and_sync(experts: kt_moe.Experts, case: Case) -> None:
    wanted = call(experts, case)
    outs = [experts.submit(case.x, case.ids, case.weights) for _ in range(20)]
    experts.sync()
    for out in outs:
        np.testing.assert_array_equal(out, wanted)


def test_sync_raises_what_the_call_raised(experts: kt_moe.Experts, case: Case) -> None:
    experts.submit(case.x, np.full((5, 2), 77, np.int32), case.weights)
    with pytest.raises(ValueError, match="expert id 77"):
        experts.sync()
    experts.sync()


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_answer(
    experts: kt_moe.Experts, case: Case, n: int
) -> None:
    wanted = call(experts, case)
    kt_moe.set_threads(n)
    assert kt_moe.threads() == n
    for _ in range(50):
        np.testing.assert_array_equal(call(experts, case), wanted)
    kt_moe.set_threads(0)


def test_a_forked_child_computes(experts: kt_moe.Experts, case: Case) -> None:
    kt_moe.set_threads(2)
    wanted = call(experts, case)
    child = os.fork()
    if child == 0:
        same = np.array_equal(call(experts, case), wanted)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    kt_moe.set_threads(0)


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": paths} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_kt_isa_selects() -> None:
    done = run_python("import kt_moe; print(kt_moe.cpu_info()['variant'])", KT_ISA="avx2")
    assert done.stdout.strip() == "avx2"


def test_kt_isa_refuses_what_is_unknown() -> None:
    code = (
        "import kt_moe\nassert not kt_moe.available\nprint(kt_moe.why)\n"
        "try: kt_moe.Experts(1, 64, 64, format='bf16', top_k=1)\n"
        "except kt_moe.IsaError: print('refused')"
    )
    done = run_python(code, KT_ISA="sse9")
    assert done.stdout.splitlines() == [
        "KT_ISA=sse9 is unknown: use avx2, avx512 or amx",
        "refused",
    ], done.stderr


@pytest.mark.skipif("amx" in kt_moe.cpu_info()["variants"], reason="this CPU has AMX")
def test_kt_isa_refuses_what_the_cpu_lacks() -> None:
    with pytest.raises(kt_moe.IsaError, match=r"lacks .*amx_tile"):
        kt_moe.use_isa("amx")


def test_import_without_the_compiled_part() -> None:
    code = (
        "import sys\nsys.modules['kt_moe._core'] = None\nimport kt_moe\n"
        "print(kt_moe.available, kt_moe.cpu_info()['variants'])\n"
        "try: kt_moe.threads()\nexcept kt_moe.KernelsUnavailable as e: print('missing' in str(e))"
    )
    assert run_python(code).stdout.split("\n")[:2] == ["False []", "True"]


def test_import_needs_no_torch() -> None:
    done = run_python("import sys, kt_moe; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"
