"""From how many tokens tiles are used: found by timing, then the same for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import kt_moe
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kt_moe import switch, tuning
from kt_moe._native import core
from kt_moe.switch import NEVER, TOKENS, Timed, crossover

TILES = [name for name in kt_moe.cpu_info()["variants"] if name.startswith("amx")]
needs_tiles = pytest.mark.skipif(not TILES, reason="no variant here has tiles")


def points(ratios: list[float], noise: float = 0.0) -> list[Timed]:
    """Tiles taking so many times as long as vectors; `noise` makes each second call longer."""
    late = 1 + noise
    return [
        Timed(n, [1e-3, 1e-3 * late], [1e-3 * r, 1e-3 * r * late])
        for n, r in zip(TOKENS, ratios, strict=True)
    ]


@pytest.mark.parametrize(
    ("ratios", "wanted"),
    [
        ([0.9, 0.8, 0.7, 0.5, 0.3], 2),
        ([2.0, 1.5, 1.2, 1.1, 1.0], NEVER),
        ([0.9, 0.8, 0.7, 0.5, 0.98], NEVER),  # no clear win with many tokens
        ([0.9, 1.1, 0.7, 0.5, 0.3], 5),  # a win below a loss does not count
        ([1.0, 0.98, 0.5, 0.4, 0.3], 5),  # barely lost at 4
        ([2.0, 2.0, 0.97, 0.5, 0.3], 8),
    ],
)
def test_tiles_are_used_from_where_they_win_clearly_and_go_on_to(
    ratios: list[float], wanted: int
) -> None:
    assert crossover(points(ratios)) == wanted


def test_a_busy_machine_says_nothing_about_a_close_race() -> None:
    assert crossover(points([1.5, 1.1, 0.9, 0.7, 0.5], noise=0.3)) is None
    assert crossover([]) is None


def test_a_busy_machine_still_shows_what_is_far_apart() -> None:
    assert crossover(points([9.0, 4.0, 0.3, 0.2, 0.1], noise=0.3)) == 6


seconds = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=5)


@given(st.lists(st.tuples(seconds, seconds), min_size=len(TOKENS), max_size=len(TOKENS)))
def test_any_times_give_a_sound_answer_between_a_loss_and_a_win(
    times: list[tuple[list[float], list[float]]],
) -> None:
    found = [Timed(n, *both) for n, both in zip(TOKENS, times, strict=True)]
    answer = crossover(found)
    if answer is None:
        assert not all(point.settled() for point in found)
        return
    assert TOKENS[0] <= answer <= NEVER
    assert all(point.ratio() <= 1 for point in found if point.tokens >= answer)


class Machine:
    """A clock that goes on by what calls take: vectors 1 ms a token, tiles 6 ms a call."""

    def __init__(self, *, slow: float = 1.0, uneven: bool = False) -> None:
        self.time, self.slow, self.uneven, self.calls = 0.0, slow, uneven, 0

    def run(self, tokens: int, tiles: bool) -> float:
        self.calls += 1
        took = self.slow * (6e-3 if tiles else 1e-3 * tokens)
        took *= 1.5**self.calls if self.uneven else 1
        self.time += took
        return took

    def clock(self) -> float:
        return self.time


def test_a_quiet_machine_is_asked_three_times() -> None:
    machine = Machine()
    assert crossover(switch.measure(machine.run, machine.clock)) == 7
    assert machine.calls == 3 * 2 * len(TOKENS)


def test_a_slow_machine_is_asked_twice_and_a_restless_one_not_for_ever() -> None:
    slow, restless = Machine(slow=10), Machine(slow=1e-9, uneven=True)
    assert crossover(switch.measure(slow.run, slow.clock)) == 7
    assert slow.calls == 2 * 2 * len(TOKENS)
    assert crossover(switch.measure(restless.run, restless.clock)) is None
    assert restless.calls <= 8 * 2 * len(TOKENS)


@pytest.fixture
def tiles() -> Iterator[None]:
    before = kt_moe.cpu_info()["variant"]
    kt_moe.use_isa(TILES[0])
    yield
    kt_moe.use_isa(before)


def layer(hidden: int, fmt: str = "int8") -> kt_moe.Experts:
    """Each test has a width of its own: what is found for a kind stays for the process."""
    experts = kt_moe.Experts(4, hidden, 512, format=fmt, top_k=2)
    up = np.random.default_rng(0).standard_normal((512, hidden), np.float32)
    experts.set_expert(0, up, up, np.ascontiguousarray(up.T))
    experts.copy_expert(0)
    return experts


def answer(tokens: int) -> Callable[[kt_moe.Experts, int], list[Timed]]:
    ratios = [2.0 if n < tokens else 0.5 for n in TOKENS]
    return lambda experts, threads: points(ratios)


def refuse(experts: kt_moe.Experts, threads: int) -> list[Timed]:
    raise RuntimeError("timed again")


def outputs(experts: kt_moe.Experts, tokens: int) -> np.ndarray:
    """Of tokens that share two experts."""
    x = np.random.default_rng(tokens).standard_normal((tokens, experts.hidden), np.float32)
    ids = np.tile(np.array([1, 3], np.int32), (tokens, 1))
    out: np.ndarray = experts.forward(x, ids, np.ones((tokens, 2), np.float32))
    return out


def ways(experts: kt_moe.Experts, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """What vectors and what tiles compute."""
    kt_moe.limits.set_tile_from(tokens + 1)
    vectors = outputs(experts, tokens)
    kt_moe.limits.set_tile_from(1)
    on_tiles = outputs(experts, tokens)
    kt_moe.limits.set_tile_from(0)
    assert (vectors != on_tiles).any()
    return vectors, on_tiles


@needs_tiles
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_calls_follow_what_was_found(fmt: str) -> None:
    experts = layer(448, fmt)
    tuning.calibrate(experts, answer(16))
    below, above = ways(experts, 11), ways(experts, 14)
    assert (outputs(experts, 11) == below[0]).all()
    assert (outputs(experts, 14) == above[1]).all()
    assert (outputs(experts, 14) == outputs(experts, 14)).all()


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_the_first_answer_stays() -> None:
    experts = layer(512)
    tuning.calibrate(experts, answer(32))
    before = outputs(experts, 20)
    tuning.calibrate(experts, refuse)
    core().keep_switch(tuple(experts._packed.kind()), 2)
    assert (outputs(experts, 20) == before).all()
    tuning.calibrate(layer(512), refuse)  # the same kind of layer


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_threads_that_find_different_answers_at_once_agree() -> None:
    experts = layer(896)
    together = Barrier(4)

    def found(tokens: int) -> Callable[[kt_moe.Experts, int], list[Timed]]:
        def times(experts: kt_moe.Experts, threads: int) -> list[Timed]:
            together.wait(10)
            return answer(tokens)(experts, threads)

        return times

    def compute(tokens: int) -> np.ndarray:
        tuning.calibrate(experts, found(tokens))
        return outputs(experts, 6)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(compute, (2, 4, 8, 32)))
    assert all((r == results[0]).all() for r in results)
    assert any((results[0] == way).all() for way in ways(experts, 6))


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_a_machine_too_busy_leaves_the_built_in_value_for_good() -> None:
    experts = layer(576)
    tuning.calibrate(experts, lambda experts, threads: [])
    tuning.calibrate(experts, refuse)
    assert (outputs(experts, 4) == ways(experts, 4)[1]).all()
    assert tuple(experts._packed.kind()) not in {tuple(kind) for kind, _ in core().switches()}


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_another_number_of_threads_is_another_kind() -> None:
    experts = layer(640)
    before = kt_moe.threads()
    tuning.calibrate(experts, answer(8))
    kt_moe.set_threads(before + 1)
    with pytest.raises(RuntimeError, match="timed again"):
        tuning.calibrate(experts, refuse)
    outputs(layer(64), 1)  # a pool of so many is made
    kt_moe.set_threads(0)
    tuning.calibrate(experts, refuse)


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_a_value_for_all_layers_and_tiny_layers_are_not_timed() -> None:
    kt_moe.limits.set_tile_from(7)
    tuning.calibrate(layer(704), refuse)
    kt_moe.limits.set_tile_from(0)
    tuning.calibrate(kt_moe.Experts(2, 64, 64, format="int8", top_k=1), refuse)


def test_vectors_alone_are_never_timed_against_tiles() -> None:
    before = kt_moe.cpu_info()["variant"]
    kt_moe.use_isa("avx2")
    try:
        tuning.calibrate(layer(768), refuse)
    finally:
        kt_moe.use_isa(before)


@needs_tiles
@pytest.mark.usefixtures("tiles")
def test_timing_tries_no_cuts_and_leaves_out_experts_without_weights() -> None:
    experts = kt_moe.Experts(5, 832, 512, format="bf16", top_k=2)
    assert switch.times(experts, 1) == []
    up: np.ndarray = np.ones((512, 832), np.float32)
    for e in (1, 4):
        experts.set_expert(e, up, up, np.ascontiguousarray(up.T))
    groups = switch._groups(experts, 1)
    assert [group.tolist() for group in groups] == [[1], [4]]
    core().tried_a_cut()
    probe = switch._Probe(experts, groups)
    assert all(probe(n, on_tiles) > 0 for n in TOKENS for on_tiles in (False, True))
    assert not core().tried_a_cut()


@pytest.mark.parametrize(
    ("group", "tokens", "top_k"), [([3, 1, 2], 4, 2), ([5], 2, 8), ([1, 2], 3, 1)]
)
def test_every_expert_of_a_group_has_as_many_tokens(
    group: list[int], tokens: int, top_k: int
) -> None:
    ids = switch._ids(np.array(group, np.int32), tokens, top_k)
    assert ids.shape[1] == top_k
    assert {e: int((ids == e).sum()) for e in group} == dict.fromkeys(group, tokens)
    assert ((ids == -1) | np.isin(ids, group)).all()
