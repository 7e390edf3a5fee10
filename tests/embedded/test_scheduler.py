"""Who runs when: fairness, bounds, and that every token runs exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli.embedded.cache import TokenPool
from kt_cli.embedded.scheduler import Request, Scheduler


def request(length, answer=5, seed=0):
    return Request(tuple(range(seed * 1000, seed * 1000 + length)), answer)


def advance(scheduler):
    """A step with a model that always answers 7; finished requests leave."""
    jobs = scheduler.plan()
    for job in jobs:
        job.done()
        if job.last:
            job.request.generated.append(7)
        if len(job.request.generated) == job.request.max_tokens:
            scheduler.remove(job.request)
    return jobs


def sizes(jobs):
    return [len(job.tokens) for job in jobs]


def test_a_long_prompt_runs_in_chunks_beside_those_that_generate():
    scheduler = Scheduler(TokenPool(1000), 4, chunk=50, busy_chunk=10)
    scheduler.add(request(4))
    scheduler.admit()
    assert sizes(advance(scheduler)) == [4]
    scheduler.add(request(25, seed=1))
    scheduler.admit()
    assert [sizes(advance(scheduler)) for _ in range(3)] == [[1, 10], [1, 10], [1, 5]]
    assert sizes(scheduler.plan()) == [1, 1]


def test_chunks_are_larger_when_nobody_waits_for_them():
    scheduler = Scheduler(TokenPool(1000), 4, chunk=50, busy_chunk=10)
    scheduler.add(request(60))
    scheduler.admit()
    assert sizes(advance(scheduler)) == [50]


def test_prompts_share_a_chunk_in_order_of_arrival():
    scheduler = Scheduler(TokenPool(1000), 4, chunk=20)
    for seed in (1, 2, 3):
        scheduler.add(request(15, seed=seed))
    scheduler.admit()
    assert sizes(scheduler.plan()) == [15, 5]


def test_a_prompt_that_must_run_whole_does():
    scheduler = Scheduler(TokenPool(1000), 4, chunk=None, busy_chunk=None)
    scheduler.add(request(700))
    scheduler.admit()
    assert sizes(scheduler.plan()) == [700]


def test_nobody_overtakes_a_request_that_waits_for_room():
    scheduler = Scheduler(TokenPool(100), 4)
    for length in (50, 80, 5):
        scheduler.add(request(length, seed=length))
    started = [len(r.prompt) for r, _ in scheduler.admit()]
    assert started == [50] and len(scheduler.waiting) == 2


def test_a_removed_request_frees_its_place_at_once():
    scheduler = Scheduler(TokenPool(100), 1)
    first, second = request(50, seed=1), request(60, seed=2)
    scheduler.add(first)
    scheduler.add(second)
    scheduler.admit()
    scheduler.remove(first, keep=False)
    assert [r for r, _ in scheduler.admit()] == [second]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 8), st.integers(0, 3), st.integers(0, 6)),
        max_size=12,
    ),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(1, 10),
)
def test_all_requests_end_in_fair_order_with_every_token_run_once(
    arrivals, batch, chunk, busy_chunk
):
    scheduler = Scheduler(TokenPool(100), batch, chunk=chunk, busy_chunk=busy_chunk)
    requests = [(request(n, answer, seed), at) for n, answer, seed, at in arrivals]
    ran = {id(r): 0 for r, _ in requests}
    started, clock = [], 0
    waiting = sorted(requests, key=lambda pair: pair[1])
    order = [r for r, _ in waiting]
    while waiting or not scheduler.idle:
        while waiting and waiting[0][1] <= clock:
            scheduler.add(waiting.pop(0)[0])
        for r, opening in scheduler.admit():
            started.append(r)
            ran[id(r)] += opening.reused
        stored = {id(r): len(r.segment.tokens) for r in scheduler.running}
        jobs = advance(scheduler)
        assert len(jobs) <= batch and len({id(j.request) for j in jobs}) == len(jobs)
        decoding = sum(1 for j in jobs if stored[id(j.request)] >= len(j.request.prompt))
        prompt_tokens = sum(
            len(j.tokens) for j in jobs if stored[id(j.request)] < len(j.request.prompt)
        )
        assert prompt_tokens <= (busy_chunk if decoding else chunk)
        for job in jobs:
            at = stored[id(job.request)]
            whole = [*job.request.prompt, *job.request.generated]
            assert job.tokens == whole[at : at + len(job.tokens)]
            ran[id(job.request)] += len(job.tokens)
        clock += 1
        assert clock < 3000
    assert started == order
    for r, _ in requests:
        assert len(r.generated) == r.max_tokens
        assert ran[id(r)] == len(r.prompt) + r.max_tokens - 1
