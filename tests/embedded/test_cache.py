"""Segments never overlap, nobody loses what is running, prefixes are really prefixes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli.embedded.cache import MIN_REUSE, TokenPool


def text(*parts):
    """Tokens such that equal parts give equal tokens."""
    return [part * 100 + i for part, length in parts for i in range(length)]


def fill(segment, tokens):
    segment.tokens.extend(tokens[len(segment.tokens) :])


def test_a_conversation_that_goes_on_keeps_its_place():
    pool = TokenPool(100)
    first = pool.open(text((1, 20)), 40).segment
    fill(first, text((1, 20), (2, 10)))
    pool.close(first)
    again = pool.open(text((1, 20), (2, 10), (3, 5)), 60)
    assert again.segment is first and again.reused == 30 and again.source is None
    assert (first.start, first.room, first.live) == (0, 60, True)


def test_a_shared_beginning_is_copied_while_the_other_runs():
    pool = TokenPool(100)
    first = pool.open(text((1, 20)), 30).segment
    fill(first, text((1, 20)))
    second = pool.open(text((1, 20), (2, 5)), 40)
    assert second.source is first and second.reused == 20
    assert second.segment.start == 30 and second.segment.tokens == text((1, 20))


def test_the_same_prompt_again_leaves_its_last_token_to_run():
    pool = TokenPool(100)
    first = pool.open(text((1, 20)), 30).segment
    fill(first, text((1, 20)))
    pool.close(first)
    assert pool.open(text((1, 20)), 30).reused == 19


def test_a_short_common_beginning_is_not_worth_it():
    pool = TokenPool(100)
    first = pool.open(text((1, 20)), 30).segment
    fill(first, text((1, 20)))
    pool.close(first)
    assert pool.open(text((1, MIN_REUSE - 1), (2, 20)), 30).reused == 0


def test_the_oldest_prefix_makes_room():
    pool = TokenPool(100)
    segments = []
    for part in (1, 2, 3):
        segments.append(pool.open(text((part, 30)), 30).segment)
        fill(segments[-1], text((part, 30)))
    for segment in (segments[1], segments[0], segments[2]):
        pool.close(segment)
    opening = pool.open(text((4, 20)), 25)
    assert opening.evicted == (segments[1],)


def test_no_room_beside_running_requests():
    pool = TokenPool(100)
    pool.open(text((1, 20)), 60)
    assert pool.open(text((2, 20)), 41) is None
    assert pool.open(text((2, 20)), 40) is not None


def test_without_cropping_only_a_whole_prefix_is_reused():
    pool = TokenPool(200, crop=False)
    first = pool.open(text((1, 20)), 30).segment
    fill(first, text((1, 20), (2, 5)))
    pool.close(first)
    assert pool.open(text((1, 20), (3, 5)), 30).reused == 0
    assert pool.open(text((1, 20), (2, 5), (3, 5)), 40).reused == 25


def test_without_reuse_nothing_stays():
    pool = TokenPool(100, reuse=False)
    first = pool.open(text((1, 20)), 30).segment
    fill(first, text((1, 20)))
    pool.close(first)
    assert pool.used == 0


# What a client does: open a prompt made of few parts, run some of it, end one of those running.
_ACTION = st.tuples(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 20)), min_size=1, max_size=3),
    st.integers(0, 30),
    st.integers(0, 3),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_ACTION, max_size=25), st.booleans())
def test_invariants_hold_whatever_happens(actions, crop):
    pool, running = TokenPool(120, crop=crop), []
    contents = {}
    for parts, answer, victim, keep in actions:
        prompt = text(*parts)
        room = len(prompt) + answer
        alive = {id(s): list(s.tokens) for s in pool.segments}
        opening = pool.open(prompt, room) if room <= pool.total else None
        if opening is not None:
            segment = opening.segment
            assert segment.room >= room and segment.end <= pool.total
            assert segment.tokens == prompt[: opening.reused]
            assert opening.reused < len(prompt)
            if opening.source is not None:
                assert alive[id(opening.source)][: opening.reused] == segment.tokens
                assert opening.source in pool.segments
            assert not set(map(id, opening.evicted)) & set(map(id, running))
            fill(segment, prompt)
            running.append(segment)
            contents[id(segment)] = prompt
        elif room <= pool.total:
            assert running
        if victim < len(running):
            pool.close(running.pop(victim), keep)
        places = sorted((s.start, s.end) for s in pool.segments)
        assert all(a[1] <= b[0] for a, b in pairwise(places))
        assert pool.used <= pool.total
        assert all(s in pool.segments and s.tokens == contents[id(s)] for s in running)
