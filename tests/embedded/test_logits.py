"""Logits of every family against transformers on the same checkpoint, in float32."""

from __future__ import annotations

import pytest
import torch

from embedded.models import FAMILIES, FAST, reference_logits
from kt_cli.embedded.cache import TokenPool
from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadOptions, load_model
from kt_cli.embedded.presets import rules_for
from kt_cli.embedded.runners import GeneralRunner, PooledRunner
from kt_cli.embedded.scheduler import Job, Request

CLOSE = 1e-4


def load(path, rules):
    return load_model(path, read_rules(rules), LoadOptions(dtype="fp32"), lambda *_: None)


def runner_for(path, model_type):
    model = load(path, rules_for(model_type)).model
    return (
        PooledRunner(model, 400, torch.float32)
        if PooledRunner.fits(model)
        else GeneralRunner(model)
    )


def start(pool, runner, prompt, room=100):
    opening = pool.open(prompt, room)
    runner.open(opening)
    return Request(tuple(prompt), room, segment=opening.segment)


def job(request, count):
    return Job(request, request.segment, request.next_tokens(count), True)


def step(runner, *jobs):
    with torch.inference_mode():
        logits = runner.run(jobs)
    for done in jobs:
        done.done()
    return logits


def prompt_of(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 128, (length,), generator=generator).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_decode_give_the_logits_of_transformers(family, tiny):
    path, model = tiny(family)
    runner = runner_for(path, model.config.model_type)
    text = prompt_of(20, 1)
    expected = reference_logits(model, text)
    pool = TokenPool(400, crop=runner.crop, reuse=runner.reuse)
    request = start(pool, runner, text)
    seen = [step(runner, job(request, 12))[0]]
    seen += [step(runner, job(request, 1))[0] for _ in range(8)]
    torch.testing.assert_close(torch.stack(seen), expected[11:], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_sequences_of_unequal_length_that_join_later_do_not_disturb_each_other(family, tiny):
    path, model = tiny(family)
    runner = runner_for(path, model.config.model_type)
    pool = TokenPool(400, crop=runner.crop, reuse=runner.reuse)
    texts = [prompt_of(14, 2), prompt_of(23, 3), prompt_of(9, 4)]
    requests = [start(pool, runner, text) for text in texts]
    first = step(runner, job(requests[0], 9))
    second = step(runner, job(requests[0], 1), job(requests[1], 20))
    third = step(runner, job(requests[2], 7), job(requests[0], 1), job(requests[1], 1))
    expected = [reference_logits(model, text) for text in texts]
    wanted = [expected[0][8], expected[0][9], expected[1][19]]
    wanted += [expected[2][6], expected[0][10], expected[1][20]]
    got = torch.cat([first, second, third])
    torch.testing.assert_close(got, torch.stack(wanted), atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", FAST)
def test_a_prompt_in_chunks_equals_the_prompt_at_once(family, tiny):
    path, model = tiny(family)
    runner = runner_for(path, model.config.model_type)
    pool = TokenPool(400)
    text = prompt_of(30, 5)
    request = start(pool, runner, text)
    for count in (7, 1, 13):
        step(runner, job(request, count))
    last = step(runner, job(request, 9))[0]
    torch.testing.assert_close(last, reference_logits(model, text)[-1], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", FAST)
def test_the_general_rules_agree_for_the_fast_families_too(family, tiny):
    path, model = tiny(family)
    loaded = load(path, rules_for(None))
    text = prompt_of(15, 6)
    with torch.inference_mode():
        got = loaded.model(torch.tensor([text])).logits[0]
    torch.testing.assert_close(got, reference_logits(model, text), atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", FAST)
def test_a_fast_family_is_served_by_one_pass_over_all_sequences(family, tiny):
    path, model = tiny(family)
    assert isinstance(runner_for(path, model.config.model_type), PooledRunner)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"qwen3_moe_mixed"}))
def test_every_moe_layer_gets_our_experts(family, tiny):
    path, model = tiny(family)
    loaded = load(path, rules_for(None))
    experts = [n for n, o in loaded.injection.operators.items() if type(o).__name__ == "Experts"]
    expected = [name for name, _ in model.named_modules() if name.endswith(".experts")]
    assert experts == expected
    assert loaded.notes == ()


def test_routers_compute_in_float32_when_the_model_computes_in_bfloat16(tiny):
    path, _ = tiny("mixtral")
    general, fast = (
        load_model(path, read_rules(rules_for(kind)), LoadOptions(dtype="bf16"), lambda *_: None)
        for kind in (None, "mixtral")
    )
    assert general.model.model.layers[0].mlp.gate.weight.dtype == torch.float32
    assert general.model.model.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16
    assert fast.model.model.layers[0].mlp.router.dtype == torch.float32
