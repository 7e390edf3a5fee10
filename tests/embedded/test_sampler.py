"""Sampling against a plain reference, one request at a time, written the obvious way."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kt_cli.embedded.api import Sampling
from kt_cli.embedded.sampler import SamplerState, logprobs, sample


def reference_distribution(logits, s, prompt=(), generated=()):
    """The probabilities of all tokens after every rule, in plain Python."""
    values = list(logits)
    for token, bias in s.logit_bias:
        values[token] += bias
    for token in {*prompt, *generated}:
        if s.repetition_penalty != 1:
            up = values[token] > 0
            values[token] *= 1 / s.repetition_penalty if up else s.repetition_penalty
    for token, count in Counter(generated).items():
        values[token] -= count * s.frequency_penalty + s.presence_penalty
    if s.temperature <= 0:
        return [float(i == values.index(max(values))) for i in range(len(values))]
    top = max(values)
    p = [math.exp((v - top) / s.temperature) for v in values]
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if s.top_k > 0:
        order = order[: s.top_k]
    total, mass, kept = sum(p[i] for i in order), 0.0, []
    for i in order:
        if kept and s.top_p < 1 and mass >= s.top_p * total:
            break
        kept.append(i)
        mass += p[i]
    kept = [i for i in kept if p[i] >= s.min_p * p[order[0]]]
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


def logits_of(seed, size=40):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3


def run(logits, sampling, count, prompt=()):
    state = SamplerState(sampling, prompt, len(logits))
    return [sample(logits[None], [state])[0] for _ in range(count)]


_SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 3, 50]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 5),
    logit_bias=st.sampled_from([(), ((3, 4.0),), ((0, -100.0), (5, 2.0))]),
)


@settings(max_examples=200, deadline=None)
@given(_SAMPLINGS, st.integers(0, 20))
def test_every_token_drawn_is_one_the_rules_allow(sampling, seed):
    logits, prompt = logits_of(seed), [1, 2, 3]
    state = SamplerState(sampling, prompt, len(logits))
    generated = []
    for _ in range(4):
        expected = reference_distribution(logits.tolist(), sampling, prompt, generated)
        generated += sample(logits[None], [state])
        assert expected[generated[-1]] > 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7, top_k=5),
        Sampling(temperature=1.3, top_p=0.8),
        Sampling(temperature=1.0, min_p=0.1),
        Sampling(temperature=0.9, top_k=10, top_p=0.7, min_p=0.05),
    ],
)
@pytest.mark.parametrize("size", [40, 3000])
def test_frequencies_follow_the_distribution(sampling, size):
    logits = logits_of(3, size)
    expected = torch.tensor(reference_distribution(logits.tolist(), sampling))
    states = [SamplerState(replace(sampling, seed=n), (), size) for n in range(500)]
    drawn = [t for _ in range(8) for t in sample(logits.expand(500, -1), states)]
    seen = torch.bincount(torch.tensor(drawn), minlength=size) / len(drawn)
    # Five standard deviations of a count, and two strays for the rarest tokens.
    allowed = 5 * (expected / len(drawn)).sqrt() + 2 / len(drawn) * (expected > 0)
    assert ((seen - expected).abs() <= allowed).all()


def test_penalties_count_what_has_been_generated():
    logits = torch.tensor([2.0, 1.9, 0.0])
    assert run(logits, Sampling(temperature=0, presence_penalty=0.5), 2) == [0, 1]
    assert run(logits, Sampling(temperature=0, frequency_penalty=0.15), 4) == [0, 1, 0, 1]


def test_the_repetition_penalty_also_counts_the_prompt():
    logits = torch.tensor([2.0, 1.9, -1.0])
    given = Sampling(temperature=0, repetition_penalty=1.2)
    assert run(logits, given, 1, prompt=(0,)) == [1]


@settings(max_examples=60, deadline=None)
@given(st.lists(_SAMPLINGS, min_size=2, max_size=6), st.integers(0, 20))
def test_what_a_request_gets_does_not_depend_on_its_company(samplings, seed):
    rows = torch.stack([logits_of(seed + i) for i in range(len(samplings))])
    alone = [run(row, s, 3, (4,)) for row, s in zip(rows, samplings, strict=True)]
    states = [SamplerState(s, (4,), rows.shape[1]) for s in samplings]
    together = [sample(rows, states) for _ in range(3)]
    assert [list(t) for t in zip(*together, strict=True)] == alone


def test_a_seed_repeats_and_no_seed_does_not():
    logits = torch.zeros(1000)
    assert run(logits, Sampling(seed=5), 20) == run(logits, Sampling(seed=5), 20)
    assert run(logits, Sampling(), 20) != run(logits, Sampling(), 20)


def test_logprobs_are_those_of_the_model():
    logits = logits_of(1)
    expected = logits.log_softmax(-1)
    found = logprobs(logits, 7, 3)
    assert found.chosen == pytest.approx(float(expected[7]), abs=1e-5)
    best = expected.topk(3)
    assert [t for t, _ in found.top] == best.indices.tolist()
    assert [v for _, v in found.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_forbidden_tokens_are_never_drawn():
    logits = torch.full((2000,), float("-inf"))
    logits[[5, 1500]] = 0.0
    for sampling in (Sampling(seed=1), Sampling(seed=1, top_p=0.99), Sampling(seed=1, top_k=7)):
        assert set(run(logits, sampling, 50)) == {5, 1500}


EXTREMES = [
    {"temperature": 5e-324},
    {"temperature": 1e-320, "top_p": 1e-9},
    {"temperature": 1e-100, "top_k": 2**31, "min_p": 1.0},
    {"temperature": 1e-12, "logit_bias": tuple((i, -100.0) for i in range(40))},
    {"temperature": 1e-3, "repetition_penalty": 0.01},
    {"temperature": 1e-300, "presence_penalty": 2.0, "frequency_penalty": -2.0},
]


@pytest.mark.parametrize("given", EXTREMES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_the_least_temperature_is_greedy(given, scale):
    logits = logits_of(4) * scale
    wanted = Sampling(**{**given, "temperature": 0.0}, seed=1)
    found = run(logits, Sampling(**given, seed=1), 5, prompt=(1, 2))
    assert found == run(logits, wanted, 5, prompt=(1, 2))


def test_equal_logits_share_at_any_temperature():
    logits = torch.tensor([1.0, 2.0, 2.0, float("-inf")])
    drawn = Counter(run(logits, Sampling(temperature=5e-324, seed=1), 200))
    assert set(drawn) == {1, 2} and min(drawn.values()) > 60


def test_every_token_at_the_least_bias_leaves_the_choice_as_it_was():
    logits = logits_of(4)
    bias = tuple((i, -100.0) for i in range(40))
    for temperature in (0.0, 1.0):
        plain = Sampling(temperature=temperature, seed=3)
        assert run(logits, replace(plain, logit_bias=bias), 20) == run(logits, plain, 20)
