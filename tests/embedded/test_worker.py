"""The engine thread with a runner made of arithmetic: batching, cancelling, failing, closing."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedded.fakes import FakeRunner, decode, expected, stream_for, tokens_of
from kt_cli.embedded import heap
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.worker import Worker
from kt_cli.errors import KtError, NotReadyError


def greedy(count, **more):
    return Sampling(temperature=0, max_tokens=count, **more)


@pytest.fixture
def worker():
    made = []

    def make(runner=None, **options):
        settings = {"max_batch": 4, "kv_tokens": 400, **options}
        made.append(Worker(runner or FakeRunner(), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(2, 40), min_size=1, max_size=40), st.integers(1, 12)),
        min_size=1,
        max_size=10,
    ),
    st.booleans(),
    st.booleans(),
)
def test_everyone_gets_the_answer_they_would_get_alone(requests, chunked, batched):
    worker = Worker(FakeRunner(chunked=chunked, batched=batched), max_batch=3, kv_tokens=150)
    handles = [stream_for(worker, prompt, greedy(count)) for prompt, count in requests]
    answers = [tokens_of(handle) for handle in handles]
    worker.close()
    assert answers == [expected(prompt, count) for prompt, count in requests]


def test_memory_is_given_back_after_loading_and_long_prompts_when_nothing_is_left(
    worker, monkeypatch
):
    given = []
    monkeypatch.setattr(heap, "give_back", lambda: given.append(len(runner.batches)))
    runner = FakeRunner()
    engine = worker(runner)
    wait_for(lambda: len(given) == 1)
    tokens_of(stream_for(engine, [5, 6, 7], greedy(20)))
    tokens_of(stream_for(engine, [8, *range(2, 40), *range(2, 40)], greedy(20)))
    wait_for(lambda: len(given) == 2)
    assert given == [0, 40]


def test_requests_share_steps(worker):
    runner = FakeRunner()
    runner.gate.clear()
    engine = worker(runner)
    handles = [stream_for(engine, [5, n], greedy(6)) for n in range(2, 6)]
    wait_for(lambda: engine.stats().waiting + engine.stats().running == 4)
    runner.gate.set()
    for handle in handles:
        tokens_of(handle)
    assert [1, 1, 1, 1] in runner.batches


def test_stats_count(worker):
    engine = worker()
    prompt = list(range(2, 22))
    tokens_of(stream_for(engine, prompt, greedy(5)))
    handle = stream_for(engine, prompt, greedy(5))
    tokens_of(handle)
    wait_for(lambda: engine.stats().requests_finished == 2)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.requests_cancelled) == (0, 0, 0)
    assert (stats.prompt_tokens, stats.generated_tokens) == (40, 10)
    assert handle.cached_tokens == stats.cached_prompt_tokens == 19
    assert 0 < stats.kv_used <= stats.kv_total == 400


def test_a_conversation_reuses_what_was_said(worker):
    runner = FakeRunner()
    engine = worker(runner)
    prompt = list(range(2, 22))
    said = tokens_of(stream_for(engine, prompt, greedy(8)))
    runner.batches.clear()
    more = [*prompt, *said, 3, 4, 5]
    handle = stream_for(engine, more, greedy(4))
    assert tokens_of(handle) == expected(more, 4)
    assert handle.cached_tokens == 27
    assert runner.batches[0] == [4]


def test_cancel_frees_the_place_at_the_next_step(worker):
    runner = FakeRunner()
    engine = worker(runner, max_batch=1)
    first = stream_for(engine, [5, 6], greedy(300))
    second = stream_for(engine, [7, 8], greedy(3))
    next(iter(first))
    first.cancel()
    chunks = list(first)
    assert chunks[-1].finish_reason == "cancelled"
    assert tokens_of(second) == expected([7, 8], 3)
    assert engine.stats().requests_cancelled == 1
    first.cancel()


def test_a_waiting_request_can_be_cancelled(worker):
    engine = worker(max_batch=1)
    first = stream_for(engine, [5, 6], greedy(390))
    second = stream_for(engine, [7, 8], greedy(3))
    second.cancel()
    assert [c.finish_reason for c in second] == ["cancelled"]
    first.cancel()


def test_the_failure_of_one_request_does_not_reach_the_others(worker):
    runner = FakeRunner()
    runner.poison = 33
    runner.gate.clear()
    engine = worker(runner)
    prompts = [[5, 6], [7, 33], [8, 9]]
    handles = [stream_for(engine, prompt, greedy(6)) for prompt in prompts]
    runner.gate.set()
    with pytest.raises(ArithmeticError, match="poisoned"):
        tokens_of(handles[1])
    assert tokens_of(handles[0]) == expected([5, 6], 6)
    assert tokens_of(handles[2]) == expected([8, 9], 6)


def test_a_request_whose_logits_are_no_numbers_fails_alone(worker):
    runner = FakeRunner()
    runner.nan = 33
    engine = worker(runner)
    good, bad = stream_for(engine, [5, 6], greedy(6)), stream_for(engine, [7, 33], greedy(6))
    with pytest.raises(KtError, match="no numbers"):
        tokens_of(bad)
    assert tokens_of(good) == expected([5, 6], 6)


def test_a_tokenizer_that_fails_ends_only_its_request(worker):
    engine = worker()

    def broken(ids):
        raise UnicodeError("no such token")

    bad = stream_for(engine, [5, 6], greedy(6), broken)
    good = stream_for(engine, [7, 8], greedy(6))
    with pytest.raises(UnicodeError):
        tokens_of(bad)
    assert tokens_of(good) == expected([7, 8], 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_fail_their_request_alone(worker, value):
    runner = FakeRunner()
    runner.nan, runner.not_a_number = 6, value
    engine = worker(runner)
    bad = stream_for(engine, [5, 6], greedy(6, logprobs=3))
    good = stream_for(engine, [7, 8], greedy(2))
    with pytest.raises(KtError, match="no numbers"):
        tokens_of(bad)
    assert tokens_of(good) == expected([7, 8], 2)


def test_sampling_that_fails_fails_its_request_alone(worker):
    runner = FakeRunner()
    runner.gate.clear()
    engine = worker(runner)
    bad = stream_for(engine, [5, 6], greedy(6, repetition_penalty="x"))
    good = stream_for(engine, [7, 8], greedy(6))
    runner.gate.set()
    with pytest.raises(TypeError):
        tokens_of(bad)
    assert tokens_of(good) == expected([7, 8], 6)


def test_an_engine_failure_reaches_everyone_and_later_requests(worker):
    runner = FakeRunner()
    runner.gate.clear()
    engine = worker(runner, max_batch=1)
    handles = [stream_for(engine, [5, n], greedy(6)) for n in (6, 7)]
    runner.broken = KeyboardInterrupt("killed")
    runner.gate.set()
    for handle in handles:
        with pytest.raises(NotReadyError, match="engine has failed"):
            tokens_of(handle)
    with pytest.raises(NotReadyError):
        stream_for(engine, [5], greedy(1))


def test_closing_ends_what_runs_and_what_waits():
    engine = Worker(FakeRunner(), max_batch=1, kv_tokens=400)
    handles = [stream_for(engine, [5, n], greedy(300)) for n in (6, 7)]
    engine.close()
    assert [list(h)[-1].finish_reason for h in handles] == ["cancelled", "cancelled"]
    with pytest.raises(NotReadyError, match="closed"):
        stream_for(engine, [5], greedy(1))


def test_many_threads_may_submit_and_cancel(worker):
    engine = worker(max_batch=3)
    results = {}

    def client(n):
        handle = stream_for(engine, [n, n + 1], greedy(20))
        if n % 3 == 0:
            handle.cancel()
        results[n] = tokens_of(handle), n

    threads = [threading.Thread(target=client, args=(n,)) for n in range(2, 26)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, (tokens, _) in results.items():
        full = expected([n, n + 1], 20)
        assert tokens == full if n % 3 else tokens == full[: len(tokens)]


def test_the_reasons_to_end(worker):
    engine = worker()
    answer = decode(expected([5, 6], 8))
    by_length = list(stream_for(engine, [5, 6], greedy(8)))
    assert by_length[-1].finish_reason == "length"
    assert "".join(c.text for c in by_length) == answer
    stop = answer[3:5]
    by_stop = list(stream_for(engine, [5, 6], greedy(8, stop=(stop,))))
    assert by_stop[-1].finish_reason == "stop"
    assert "".join(c.text for c in by_stop) == answer[: answer.index(stop)]


def test_an_end_token_ends_and_can_be_ignored(worker):
    engine = worker()
    bias = ((1, 100.0),)
    chunks = list(stream_for(engine, [5], greedy(4, logit_bias=bias)))
    assert [(c.token_ids, c.text, c.finish_reason) for c in chunks] == [((1,), "", "stop")]
    ignored = list(stream_for(engine, [5], greedy(4, logit_bias=bias, ignore_eos=True)))
    assert len(ignored) == 4 and ignored[-1].finish_reason == "length"


def test_logprobs_come_with_their_tokens(worker):
    engine = worker()
    chunks = list(stream_for(engine, [5, 6], greedy(3, logprobs=2)))
    for chunk, token in zip(chunks, expected([5, 6], 3), strict=True):
        (reported,) = chunk.logprobs
        assert (reported.token_id, reported.token) == (token, decode([token]))
        assert reported.top[0] == (decode([token]), token, reported.logprob)
        assert len(reported.top) == 2 and reported.logprob < 0
