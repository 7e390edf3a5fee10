"""The whole engine on tiny checkpoints: text in, text out, compared with transformers."""

from __future__ import annotations

import pytest

from embedded.models import reference_tokens
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling
from kt_cli.errors import UsageError

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def running(tiny):
    made = {}

    def start(family, **options):
        key = family, *options.items()
        if key not in made:
            path, _ = tiny(family)
            settings = {"context": 200, "max_batch": 3, "threads": 1, "dtype": "fp32", **options}
            made[key] = engine.load(path, model_name=family, progress=lambda *_: None, **settings)
        return made[key]

    yield start
    for each in made.values():
        each.close()


def tokens_of(handle):
    return [token for chunk in handle for token in chunk.token_ids]


def prompt_of(length, seed):
    return [3 + (seed * 31 + i * i * 7) % 120 for i in range(length)]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_next"])
def test_requests_at_once_give_the_tokens_of_transformers(family, tiny, running):
    _, model = tiny(family)
    prompts = [prompt_of(length, length) for length in (30, 5, 17, 40, 9)]
    handles = [running(family).submit(prompt, GREEDY) for prompt in prompts]
    got = [tokens_of(handle) for handle in handles]
    assert got == [reference_tokens(model, prompt, 12) for prompt in prompts]


@pytest.mark.parametrize("family", ["mixtral", "mixtral_window", "deepseek_v2", "gpt_oss"])
def test_a_conversation_that_goes_on_gives_the_same_as_a_new_one(family, tiny, running):
    _, model = tiny(family)
    first = prompt_of(25, 3)
    serving = running(family)
    said = tokens_of(serving.submit(first, GREEDY))
    second = [*first, *said, *prompt_of(9, 4)]
    handle = serving.submit(second, GREEDY)
    assert tokens_of(handle) == reference_tokens(model, second, 12)
    assert handle.cached_tokens == len(first) + len(said) - 1
    # A sliding cache has forgotten what a cut would bring back.
    expected = 0 if family == "gpt_oss" else 20
    branch = [*first[:20], *prompt_of(12, 5)]
    handle = serving.submit(branch, GREEDY)
    assert tokens_of(handle) == reference_tokens(model, branch, 12)
    assert handle.cached_tokens == expected


def test_a_model_with_a_recurrent_state_reuses_nothing(tiny, running):
    _, model = tiny("qwen3_next")
    prompt = prompt_of(25, 3)
    for _ in range(2):
        handle = running("qwen3_next").submit(prompt, GREEDY)
        assert tokens_of(handle) == reference_tokens(model, prompt, 12)
        assert handle.cached_tokens == 0


def test_text_of_several_bytes_a_character_round_trips(running):
    serving = running("mixtral")
    assert serving._tokenizer.decode(serving.encode("née 3€")) == "née 3€"


def test_the_chat_template_is_rendered_with_its_prompt(running):
    serving = running("mixtral")
    ids = serving.render([{"role": "user", "content": "hi"}])
    assert serving._tokenizer.decode(ids) == "user:hi;assistant:"


def test_a_message_the_template_cannot_use_is_a_value_error(running):
    with pytest.raises(ValueError, match="no tools here"):
        running("mixtral").render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    ("prompt", "sampling", "fact"),
    [
        ([], GREEDY, "empty"),
        ([5] * 190, GREEDY, "do not fit the context of 200"),
        ([5, 128], GREEDY, "outside the vocabulary"),
        ([5], Sampling(max_tokens=0), "max_tokens"),
        ([5], Sampling(max_tokens=9, top_p=0.0), "top_p"),
        ([5], Sampling(max_tokens=9, temperature=-1.0), "temperature"),
        ([5], Sampling(max_tokens=9, logit_bias=((500, 1.0),)), "logit_bias"),
    ],
)
def test_what_cannot_be_generated_is_a_value_error(prompt, sampling, fact, running):
    with pytest.raises(ValueError, match=fact):
        running("mixtral").submit(prompt, sampling)


def test_a_small_kv_cache_bounds_a_request_and_makes_others_wait(tiny, running):
    _, model = tiny("mixtral")
    serving = running("mixtral", kv_tokens=60)
    with pytest.raises(ValueError, match="context of 60"):
        serving.submit([5] * 50, GREEDY)
    prompts = [prompt_of(30, seed) for seed in range(5)]
    handles = [serving.submit(prompt, GREEDY) for prompt in prompts]
    assert [tokens_of(h) for h in handles] == [reference_tokens(model, p, 12) for p in prompts]


def test_a_seed_repeats_in_company(running):
    serving = running("mixtral")
    sampling = Sampling(temperature=1.0, top_p=0.9, seed=11, max_tokens=20, ignore_eos=True)
    prompt = prompt_of(12, 8)
    alone = tokens_of(serving.submit(prompt, sampling))
    handles = [serving.submit(prompt_of(9, n), GREEDY) for n in range(2)]
    assert tokens_of(serving.submit(prompt, sampling)) == alone
    for handle in handles:
        tokens_of(handle)


def test_more_context_than_the_model_knows_is_refused(tiny):
    path, _ = tiny("mixtral")
    with pytest.raises(UsageError, match="context of 5000"):
        engine.load(
            path,
            model_name="m",
            context=5000,
            max_batch=1,
            threads=1,
            progress=lambda *_: None,
        )


def test_progress_reaches_its_end(tiny):
    path, _ = tiny("mixtral")
    heard = []
    serving = engine.load(
        path,
        model_name="m",
        context=64,
        max_batch=1,
        threads=1,
        progress=lambda stage, fraction: heard.append((stage, fraction)),
    )
    serving.close()
    loading = [fraction for stage, fraction in heard if stage == "loading weights"]
    assert heard[-1] == ("loaded", 1.0)
    assert loading == sorted(loading) and loading[-1] > 0.9
