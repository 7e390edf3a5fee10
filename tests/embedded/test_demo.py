"""The demo model says what transformers says, word for word."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from kt_cli.catalog import demo
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadOptions, load_model
from kt_cli.embedded.presets import rules_for
from kt_cli.errors import KtError

QUESTION = [{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}]


def test_greedy_answers_in_float32_equal_those_of_transformers(demo_home):
    path = demo.folder_of(demo_home)
    serving = engine.load(
        path,
        model_name="demo",
        context=512,
        max_batch=2,
        threads=2,
        dtype="fp32",
        progress=lambda *_: None,
    )
    prompt = serving.render(QUESTION)
    sampling = Sampling(temperature=0, max_tokens=24, ignore_eos=True)
    got = [token for chunk in serving.submit(prompt, sampling) for token in chunk.token_ids]
    serving.close()
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + got])).logits[0, len(prompt) - 1 : -1]
    # What each token should have been, given those before it: the same as generating greedily.
    assert got == logits.argmax(-1).tolist()


def test_bfloat16_follows_float32_on_every_backend(demo_home):
    """Mean KL divergence from float32 over an answer, for torch and for the kernels."""
    path = demo.folder_of(demo_home)
    text = torch.arange(500, 560)[None]
    answers = {}
    backends = ["torch", "kt_moe"] if kt_moe_runs() else ["torch"]
    for dtype, backend in [("fp32", "torch"), *(("bf16", name) for name in backends)]:
        options = LoadOptions(dtype=dtype, experts_backend=backend, threads=2)
        model = load_model(path, read_rules(rules_for(None)), options, lambda *_: None).model
        with torch.inference_mode():
            answers[dtype, backend] = model(text).logits[0].float().log_softmax(-1)
    exact = answers.pop(("fp32", "torch"))
    for found in answers.values():
        assert float((exact.exp() * (exact - found)).sum(-1).mean()) < 5e-3
        assert float((exact.argmax(-1) == found.argmax(-1)).float().mean()) >= 0.9


def answer_of(path, experts_format):
    options = LoadOptions(experts_backend="kt_moe", experts_format=experts_format, threads=2)
    model = load_model(path, read_rules(rules_for(None)), options, lambda *_: None).model
    with torch.inference_mode():
        return model(torch.arange(500, 560)[None]).logits[0].float().log_softmax(-1)


@pytest.fixture(scope="module")
def stored(demo_home):
    """What the demo says with its experts as they are stored."""
    return answer_of(demo.folder_of(demo_home), "bf16")


@pytest.mark.parametrize(("packed", "divergence"), [("int8", 0.02), ("int4", 0.6)])
def test_packed_experts_stay_near_the_stored_ones(demo_home, stored, packed, divergence):
    """Mean KL divergence from bf16 experts; packing the weights must cost something, not sense."""
    found = answer_of(demo.folder_of(demo_home), packed)
    assert 0 < float((stored.exp() * (stored - found)).sum(-1).mean()) < divergence


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"experts_format": "int3"}, "int3"),
        ({"experts_format": "int8", "experts_backend": "torch"}, "kt_moe"),
    ],
)
def test_a_format_that_cannot_be_had_is_refused(demo_home, options, named):
    path = demo.folder_of(demo_home)
    with pytest.raises(KtError, match=named):
        load_model(path, read_rules(rules_for(None)), LoadOptions(**options), lambda *_: None)


def kt_moe_runs():
    try:
        import kt_moe
    except ImportError:
        return False
    return kt_moe.available
