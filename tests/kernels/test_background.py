"""Work in the background: owners wait for all of it, and what it uses outlives its owners."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable

import kt_moe
import numpy as np
import pytest
from kt_moe._native import core

from .helpers import Case, random_case, random_matrices


def make() -> kt_moe.Experts:
    matrices = random_matrices(np.random.default_rng(5), 4, 512, 256)
    return kt_moe.Experts.from_weights(*matrices, format="int8", top_k=2)


@pytest.fixture
def experts() -> kt_moe.Experts:
    return make()


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    return random_case(rng, 64, 512, 4, 2)


def submit(experts: kt_moe.Experts, case: Case) -> np.ndarray:
    return experts.submit(case.x, case.ids, case.weights)


def submit_wrong(experts: kt_moe.Experts, case: Case) -> np.ndarray:
    return experts.submit(case.x, np.full_like(case.ids, 99), case.weights)


def test_a_destructor_waits_behind_calls_that_fail(case: Case) -> None:
    experts = make()
    wanted = experts.forward(case.x, case.ids, case.weights)
    outs = []
    for _ in range(3):
        submit_wrong(experts, case)
        outs += [submit(experts, case) for _ in range(3)]
    del experts
    for out in outs:
        np.testing.assert_array_equal(out, wanted)


def test_sync_waits_behind_calls_that_fail(experts: kt_moe.Experts, case: Case) -> None:
    wanted = experts.forward(case.x, case.ids, case.weights)
    submit_wrong(experts, case)
    out = submit(experts, case)
    submit_wrong(experts, case)
    with pytest.raises(ValueError, match="expert id 99"):
        experts.sync()
    np.testing.assert_array_equal(out, wanted)
    experts.sync()


def test_a_deferred_call_that_fails_raises_once(experts: kt_moe.Experts, case: Case) -> None:
    deferred = experts.defer(case.x, np.full_like(case.ids, 99), case.weights)
    with pytest.raises(ValueError, match="expert id 99"):
        deferred.add_to(np.zeros_like(case.x))
    with pytest.raises(RuntimeError, match="added already"):
        deferred.add_to(np.zeros_like(case.x))
    del deferred


class Kept(np.ndarray):
    """An array that says when it is gone."""


def started(experts: kt_moe.Experts, case: Case) -> Callable[[], bool]:
    """A call whose arrays nobody else has; whether all of them are still there."""
    arrays = [a.copy().view(Kept) for a in (case.x, case.ids, case.weights)]
    out = np.empty_like(case.x).view(Kept)
    mask = np.zeros(4, bool).view(Kept)
    seen = [weakref.ref(a) for a in (*arrays, out, mask)]
    experts._packed.submit(*arrays, mask, out)
    return lambda: all(ref() is not None for ref in seen)


def test_arrays_and_weights_outlive_their_owners(case: Case) -> None:
    """Even where nobody waits: what is done is let go by the next call or wait."""
    experts = make()
    for _ in range(4):
        submit(experts, case)
    alive = started(experts, case)
    last = core().Experts(1, 64, 64, ("int8", 32), ("int8", 32), 1, False)
    del experts
    gc.collect()
    x, ids = np.zeros((1, 64), np.float32), np.zeros((1, 1), np.int32)
    ticket = last.submit(x, ids, np.ones((1, 1), np.float32), None, np.empty_like(x))
    core().wait(ticket)
    assert not alive()


def test_use_after_free_does_not_happen() -> None:
    """Wrong calls first, then work that outlasts its experts, whose memory is used anew."""
    code = (
        "import gc, kt_moe, numpy as np\n"
        "kt_moe.set_threads(2)\n"
        "for n in range(6):\n"
        "    e = kt_moe.Experts(8, 1024, 512, format='bf16', top_k=8)\n"
        "    x = np.ones((256, 1024), np.float32); w = np.ones((256, 8), np.float32)\n"
        "    ids = np.tile(np.arange(8), (256, 1)); bad = ids.copy(); bad[0, 0] = 99\n"
        "    e.submit(x, bad, w)\n"
        "    outs = [e.submit(x, ids, w) for _ in range(3)]\n"
        "    late = e.defer(x, ids, w); call = e.host_call(x, ids, w, out=np.empty_like(x))\n"
        "    del e, outs, late, call, x, w, ids, bad\n"
        "    gc.collect()\n"
        "    filler = [np.full(1 << 20, 7, np.uint8) for _ in range(8)]\n"
        "print('whole')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("whole\n"), done.stderr


def in_a_child(check: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_waits_for_no_call_of_its_parent(
    experts: kt_moe.Experts, case: Case
) -> None:
    kt_moe.set_threads(2)
    wanted = experts.forward(case.x, case.ids, case.weights)
    done = submit(experts, case)
    core().wait(experts._pending[-1])
    many = random_case(np.random.default_rng(1), 512, 512, 4, 2)
    for _ in range(60):
        submit(experts, many)

    def check() -> None:
        with pytest.raises(RuntimeError, match="with the parent"):
            experts.sync()
        out = submit(experts, case)
        experts.sync()
        np.testing.assert_array_equal(out, wanted)
        np.testing.assert_array_equal(done, wanted)

    assert in_a_child(check) == 0
    experts.sync()
    kt_moe.set_threads(0)


def test_an_interrupt_leaves_what_is_still_to_be_waited_for(
    experts: kt_moe.Experts, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    outs = [submit(experts, case) for _ in range(3)]
    tickets = tuple(experts._pending)
    wait, waited = core().wait, []

    def interrupted(ticket: int) -> None:
        if ticket == tickets[1] and ticket not in waited:
            waited.append(ticket)
            raise KeyboardInterrupt
        wait(ticket)

    with monkeypatch.context() as patch:
        patch.setattr(core(), "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            experts.sync()
        assert tuple(experts._pending) == tickets[1:]
        experts.sync()
    assert not experts._pending and len(outs) == 3
