"""The demo model says what transformers says, word for word."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from kt_cli.catalog import demo
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling

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
        expected = model.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=24, max_new_tokens=24
        )
    assert got == expected[0, len(prompt) :].tolist()
