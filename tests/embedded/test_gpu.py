"""On a GPU: everything there, or the experts on the CPU; one or two of them."""

from __future__ import annotations

import pytest
import torch

from embedded.models import FAMILIES, FAST, reference_logits, reference_tokens
from kt_cli.embedded import engine
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.cache import TokenPool
from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadOptions, load_model
from kt_cli.embedded.operators.experts import Experts
from kt_cli.embedded.presets import rules_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
PROMPTS = [list(range(5, 5 + n)) for n in (20, 7, 33)]
HYBRID = """
- match: {name: '\\.experts$'}
  replace:
    class: Experts
    kwargs: {generate_device: cpu, out_device: cuda}
  recursive: False
"""
SPREAD = """
- match: {name: '^model$'}
  replace:
    class: KIND
    kwargs: {transfer_map: {1: 'cuda:1'}}
"""


def serve(path, model, rules=None):
    """Tokens of three requests at once, and those of transformers."""
    serving = engine.load(
        path,
        model_name="m",
        context=200,
        max_batch=3,
        threads=2,
        device="cuda",
        dtype="fp32",
        rules=rules,
        progress=lambda *_: None,
    )
    handles = [serving.submit(prompt, GREEDY) for prompt in PROMPTS]
    got = [[t for chunk in handle for t in chunk.token_ids] for handle in handles]
    serving.close()
    assert got == [reference_tokens(model, prompt, 12) for prompt in PROMPTS]


def hidden_states(path, family, ways):
    """Logits of a prompt and of the token after it, experts on our kernels."""
    from embedded.test_logits import job, start, step

    options = LoadOptions(device="cuda", dtype="bf16", experts_backend="kt_moe", threads=2)
    loaded = load_model(path, read_rules(rules_for(family)), options, lambda *_: None)
    layers = [m for m in loaded.model.modules() if isinstance(m, Experts)]
    layers[0].loader.crossing._ways = list(ways)
    runner = engine._runner(loaded, 100)
    request = start(TokenPool(100), runner, PROMPTS[2], 50)
    rows = [step(runner, job(request, len(PROMPTS[2])))[0]]
    request.generated.append(7)
    rows.append(step(runner, job(request, 1))[0])
    assert layers[0].loader.crossing._ways == list(ways), "the driver refused"
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_runs_on_the_gpu(family, tiny):
    serve(*tiny(family))


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_experts_run_on_the_cpu_beside_it(family, tiny, tmp_path):
    rules = tmp_path / "hybrid.yaml"
    rules.write_text(HYBRID)
    serve(*tiny(family), rules)


@pytest.mark.parametrize("ways", [["mailbox"], ["host-function"], []])
@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
def test_our_kernels_compute_the_same_however_the_gpu_reaches_them(family, ways, tiny):
    """Whatever way they are called, a prompt and a token after it give what waiting gives."""
    path, _ = tiny(family)
    made = [hidden_states(path, family, chosen) for chosen in (ways, [])]
    torch.testing.assert_close(*made, atol=0, rtol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "glm4_moe"])
def test_layers_are_spread_over_two_gpus(family, tiny, tmp_path):
    rules = tmp_path / "spread.yaml"
    rules.write_text(SPREAD.replace("KIND", "LayeredModel"))
    serve(*tiny(family), rules)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", FAST[:1])
def test_the_fast_decoder_is_spread_over_two_gpus(family, tiny, tmp_path):
    path, model = tiny(family)
    file = tmp_path / "spread.yaml"
    file.write_text(SPREAD.replace("KIND", "Decoder"))
    rules = (*read_rules(file), *read_rules(rules_for("mixtral")))
    options = LoadOptions(device="cuda:0", dtype="fp32")
    loaded = load_model(path, rules, options, lambda *_: None)
    runner = engine._runner(loaded, 100)
    from embedded.test_logits import job, start, step

    request = start(TokenPool(100), runner, PROMPTS[0], 50)
    got = step(runner, job(request, 20))[0]
    expected = reference_logits(model, PROMPTS[0])[-1]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
