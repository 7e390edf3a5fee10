from __future__ import annotations

import kt_moe
import pytest
from kt_moe._native import core


def test_a_job_takes_at_least_the_work_of_its_phases() -> None:
    phases, unit = 8, 2e-4
    assert core().job_time(phases, unit, 0.01) >= phases * unit


def test_a_barrier_costs_time_but_less_than_a_call_of_the_system_takes_at_worst() -> None:
    assert abs(kt_moe.limits.barrier(seconds=0.05)) < 0.05


@pytest.mark.parametrize("threads", [0, -1])
def test_limits_want_a_thread(threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1"):
        kt_moe.limits.bandwidth(threads)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        kt_moe.limits.peak("fma", threads)
