"""Experts called from CUDA streams, over a driver that is a thread."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe import gpu
from kt_moe.gpu import Array

from .helpers import Case, random_case, random_matrices
from .stand_in import NAME, Driver, Stream, build

H, E, K, T = 96, 4, 2, 8


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        ctypes.CDLL(NAME)
    except OSError:
        built = build(tmp_path_factory.mktemp("cuda"))
        if built is None:
            pytest.skip("no C compiler")
        return built
    pytest.skip("a driver of CUDA is already loaded")


@pytest.fixture(scope="module")
def loaded(library: Path) -> Driver:
    return Driver(library)


@pytest.fixture
def driver(loaded: Driver) -> Iterator[Driver]:
    yield loaded
    loaded.set(memory_ops=1, devices=1, ordinal=0, fail_copy=0, fail_register=0, own_addresses=0)
    assert loaded.balanced()


@pytest.fixture(params=["kernels", "copies", "host-function"])
def way(request: pytest.FixtureRequest, driver: Driver) -> gpu.Way:
    """The mailbox's kernels need one address for both sides; without, copies do their work."""
    driver.set(own_addresses=request.param == "copies")
    return "host-function" if request.param == "host-function" else "mailbox"


@pytest.fixture
def stream(driver: Driver) -> Stream:
    return driver.stream()


@pytest.fixture
def experts(rng: np.random.Generator) -> kt_moe.Experts:
    return kt_moe.Experts.from_weights(*random_matrices(rng, E, H, 80), format="int8", top_k=K)


def case_of(rng: np.random.Generator, tokens: int) -> Case:
    case = random_case(rng, tokens, H, E, K)
    return Case(case.x, case.ids.astype(np.int64), case.weights)


def addresses(case: Case) -> tuple[int, int, int]:
    return case.x.ctypes.data, case.ids.ctypes.data, case.weights.ctypes.data


def link_to(experts: kt_moe.Experts, way: gpu.Way = "auto", **more: object) -> kt_moe.GpuLink:
    return kt_moe.GpuLink(experts, T, "float32", way=way, **more)


@pytest.mark.parametrize("tokens", [1, T])
def test_a_stream_finds_what_a_blocking_call_returns(
    way: gpu.Way,
    tokens: int,
    stream: Stream,
    experts: kt_moe.Experts,
    rng: np.random.Generator,
) -> None:
    link, case = link_to(experts, way), case_of(rng, tokens)
    out = np.full_like(case.x, np.nan)
    link.enqueue(stream.handle, tokens, *addresses(case), out.ctypes.data)
    stream.synchronise()
    assert link.way == way
    np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_a_captured_call_runs_anew_at_every_replay(
    way: gpu.Way, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    buffers = gpu.GpuBuffers(gpu.Sizes(T, H, K, "float32"))
    links = [link_to(experts, way, buffers=buffers) for _ in range(3)]
    case = case_of(rng, 5)
    outs = [np.empty_like(case.x) for _ in links]
    stream.capture(True)
    for link, out in zip(links, outs, strict=True):
        link.enqueue(stream.handle, 5, *addresses(case), out.ctypes.data)
    stream.capture(False)
    for pause in (0.0, 0.0, 0.05):
        time.sleep(pause)  # the thread naps by then; no call announces the replay
        case.x[:] = rng.standard_normal(case.x.shape)
        stream.replay()
        stream.synchronise()
        wanted = experts.forward(case.x, case.ids, case.weights)
        for out in outs:
            np.testing.assert_array_equal(out, wanted)


def test_a_stream_goes_on_between_the_halves(
    way: gpu.Way, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    first, second = link_to(experts, way), link_to(experts, way)
    cases = [case_of(rng, 3), case_of(rng, 2)]
    outs = [np.empty_like(c.x) for c in cases]
    first.submit(stream.handle, 3, *addresses(cases[0]))
    second.submit(stream.handle, 2, *addresses(cases[1]))
    second.sync(stream.handle, 2, outs[1].ctypes.data)
    first.sync(stream.handle, 3, outs[0].ctypes.data)
    stream.synchronise()
    for case, out in zip(cases, outs, strict=True):
        np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_small_arrays_travel_in_two_kernels(
    driver: Driver, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    link, case, before = link_to(experts), case_of(rng, T), driver.launched()
    driver.set(fail_copy=719)  # CUDA_ERROR_LAUNCH_FAILED
    out = np.empty_like(case.x)
    link.enqueue(stream.handle, T, *addresses(case), out.ctypes.data)
    stream.synchronise()
    assert driver.launched() - before == 2
    np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_large_and_oddly_placed_arrays_are_copied(
    driver: Driver, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    for tokens, odd in ((T, 1), (1400, 0)):
        link, case = kt_moe.GpuLink(experts, tokens, "float32"), case_of(rng, tokens)
        source: Array = np.empty(case.x.size + 4, np.float32)
        out = np.empty_like(source)
        first = -(source.ctypes.data // 4) % 4 + odd  # of 16 bytes, or the next word
        source[first : first + case.x.size], before = case.x.ravel(), driver.launched()
        place = source.ctypes.data + 4 * first
        link.enqueue(stream.handle, tokens, place, *addresses(case)[1:], out.ctypes.data + 4 * odd)
        stream.synchronise()
        assert driver.launched() - before == 1  # ids and weights, with the request
        got = out[odd : odd + case.x.size].reshape(case.x.shape)
        np.testing.assert_array_equal(got, experts.forward(case.x, case.ids, case.weights))


def test_a_stream_of_another_context_runs_no_kernel_of_ours(
    driver: Driver, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    link, case, other = link_to(experts), case_of(rng, T), driver.stream(context=4)
    out, before = np.empty_like(case.x), driver.launched()
    link.enqueue(other.handle, T, *addresses(case), out.ctypes.data)
    other.synchronise()
    assert driver.launched() == before
    np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_arrays_that_are_page_locked_already_are_not_copied(
    driver: Driver, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    link, case = link_to(experts), case_of(rng, 4)
    driver.set(fail_copy=719)  # CUDA_ERROR_LAUNCH_FAILED
    b = link.buffers
    b.x[:4], b.ids[:4], b.weights[:4] = case.x, case.ids, case.weights
    link.enqueue(stream.handle, 4, 0, b.ids.ctypes.data, 0)
    stream.synchronise()
    np.testing.assert_array_equal(b.out[:4], experts.forward(case.x, case.ids, case.weights))


def test_masked_experts_and_int32_ids(
    stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    mask = np.array([True, False, False, True])
    link = link_to(experts, ids_dtype="int32", mask=mask)
    case = random_case(rng, 6, H, E, K)
    out = np.empty_like(case.x)
    link.enqueue(stream.handle, 6, *addresses(case), out.ctypes.data)
    stream.synchronise()
    wanted = experts.forward(case.x, case.ids, case.weights, mask=mask)
    np.testing.assert_array_equal(out, wanted)


def test_what_the_cpu_finds_wrong_is_raised_by_the_next_call(
    way: gpu.Way, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    link, case = link_to(experts, way), case_of(rng, 3)
    out = np.full_like(case.x, np.nan)
    case.ids[1, 0] = 99
    link.enqueue(stream.handle, 3, *addresses(case), out.ctypes.data)
    stream.synchronise()  # the stream is not left hanging
    assert not out.any()
    with pytest.raises(ValueError, match="expert id 99 of token 1"):
        link.enqueue(stream.handle, 3, *addresses(case), out.ctypes.data)
    case.ids[1, 0] = 0
    link.enqueue(stream.handle, 3, *addresses(case), out.ctypes.data)
    stream.synchronise()
    link.check()
    np.testing.assert_array_equal(out, experts.forward(case.x, case.ids, case.weights))


def test_a_gpu_without_memory_operations_uses_host_functions(
    driver: Driver, experts: kt_moe.Experts
) -> None:
    driver.set(memory_ops=0)
    assert link_to(experts).way == "host-function"
    with pytest.raises(kt_moe.GpuError, match="GPU 0 cannot wait for values in memory"):
        link_to(experts, "mailbox")


def test_what_does_not_fit_is_named(
    driver: Driver, stream: Stream, experts: kt_moe.Experts, rng: np.random.Generator
) -> None:
    link, case = link_to(experts), case_of(rng, 2)
    other = driver.stream(context=1)
    with pytest.raises(ValueError, match="tokens must be 1 to 8, not 9"):
        link.enqueue(stream.handle, 9, *addresses(case))
    with pytest.raises(kt_moe.GpuError, match="the stream belongs to GPU 1, the link to GPU 0"):
        link.enqueue(other.handle, 2, *addresses(case))
    with pytest.raises(kt_moe.GpuError, match="ids is not an address that the GPU can reach"):
        link.enqueue(stream.handle, 2, case.x.ctypes.data, 8, case.weights.ctypes.data)
    driver.set(ordinal=1)
    with pytest.raises(kt_moe.GpuError, match="x is on GPU 1, the link on GPU 0"):
        link.enqueue(stream.handle, 2, *addresses(case))
    driver.set(ordinal=0, fail_copy=1)
    link = link_to(experts, "host-function")
    with pytest.raises(
        kt_moe.GpuError, match=r"cuMemcpyAsync: CUDA_ERROR_INVALID_VALUE \(1\), made up"
    ):
        link.enqueue(stream.handle, 2, *addresses(case))
    driver.set(fail_register=2)
    with pytest.raises(kt_moe.GpuError, match="cuMemHostRegister: "):
        link_to(experts)
    with pytest.raises(kt_moe.GpuError, match="GPU 3 does not exist: there are 1"):
        link_to(experts, device=3)
    with pytest.raises(ValueError, match="the buffers are for"):
        kt_moe.GpuLink(experts, T + 1, "float32", buffers=link.buffers)


def test_dropping_a_link_in_the_middle_of_a_call_waits_and_unlocks(
    driver: Driver, stream: Stream, rng: np.random.Generator
) -> None:
    before = driver.registered()
    for _ in range(10):
        weights = random_matrices(rng, E, H, 80)
        dropped = link_to(kt_moe.Experts.from_weights(*weights, format="int8", top_k=K))
        case = case_of(rng, T)
        dropped.submit(stream.handle, T, *addresses(case))
        stream.synchronise()
        del dropped
    assert driver.registered() - before <= 1  # the words, once
