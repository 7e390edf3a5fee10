"""The pair of C functions: called as a CUDA host callback would."""

from __future__ import annotations

import ctypes
from threading import Thread

import kt_moe
import numpy as np
import pytest
from kt_moe.host_call import HostFunction

from .helpers import random_case, random_matrices


def launch(host: HostFunction) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(host.function)(host.context)


@pytest.fixture
def experts(rng: np.random.Generator) -> kt_moe.Experts:
    return kt_moe.Experts.from_weights(*random_matrices(rng, 4, 96, 80), format="int8", top_k=2)


def test_reads_its_arrays_at_each_launch(experts: kt_moe.Experts, rng: np.random.Generator) -> None:
    case = random_case(rng, 5, 96, 4, 2)
    out = np.full_like(case.x, np.nan)
    call = experts.host_call(case.x, case.ids, case.weights, out=out)
    for _ in range(3):
        case.x[:] = rng.standard_normal(case.x.shape)
        launch(call.submit)
        launch(call.sync)
        call.check()
        np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_works_on_a_thread_that_python_does_not_wait_for(
    experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    cases = [random_case(rng, t, 96, 4, 2) for t in (1, 3, 40)]
    outs = [np.empty_like(c.x) for c in cases]
    calls = [
        experts.host_call(c.x, c.ids, c.weights, out=o) for c, o in zip(cases, outs, strict=True)
    ]
    stream = Thread(target=lambda: [(launch(c.submit), launch(c.sync)) for c in calls])
    stream.start()
    stream.join()
    for c, o in zip(cases, outs, strict=True):
        np.testing.assert_array_equal(o, experts.forward(c.x, c.ids, c.weights))


def test_an_error_is_kept_for_check(experts: kt_moe.Experts, rng: np.random.Generator) -> None:
    case = random_case(rng, 5, 96, 4, 2)
    call = experts.host_call(case.x, case.ids, case.weights, out=np.empty_like(case.x))
    case.ids[2, 1] = 9
    launch(call.submit)
    launch(call.sync)
    with pytest.raises(ValueError, match="expert id 9 of token 2"):
        call.check()
    call.check()


def test_dropping_a_call_waits_for_it(experts: kt_moe.Experts, rng: np.random.Generator) -> None:
    case = random_case(rng, 200, 96, 4, 2)
    for _ in range(20):
        call = experts.host_call(case.x, case.ids, case.weights, out=np.empty_like(case.x))
        launch(call.submit)
        del call
