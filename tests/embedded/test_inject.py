"""Operators get in where rules say, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embedded.models import config_of, reference_logits
from kt_cli.embedded.inject import inject, parse_rules, read_rules
from kt_cli.embedded.inject.match import assign, is_instance
from kt_cli.embedded.inject.names import OLD_NAMES, OPERATORS
from kt_cli.embedded.inject.resolve import operator_class
from kt_cli.embedded.loading import LoadOptions, load_model, read_config, skeleton
from kt_cli.embedded.parameters import Parameters
from kt_cli.errors import UsageError
from kt_cli.weights.checkpoint import Checkpoint

RULES = Path(__file__).parent / "rules"
TEXT = list(range(5, 17))


def bare(family):
    return skeleton(config_of(family), torch.float32)


def load(path, rules, **options):
    return load_model(path, rules, LoadOptions(dtype="fp32", **options), lambda *_: None)


def rules(text, source=RULES / "text.yaml"):
    return parse_rules(text, str(source))


def kinds(loaded):
    return {name: type(o).__name__ for name, o in loaded.injection.operators.items()}


@pytest.mark.parametrize("name", [*OPERATORS, *OLD_NAMES])
def test_every_name_stands_for_an_operator(name):
    old = f"ktransformers.operators.somewhere.{name}" if name in OLD_NAMES else name
    (rule,) = rules(f"- match: {{name: x}}\n  replace: {{class: {old}}}")
    ours = OLD_NAMES.get(name, name)
    assert operator_class(rule).__name__ == OPERATORS[ours].rpartition(".")[2]


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3"])
def test_the_older_rules_of_a_deepseek_model_inject_and_give_its_logits(family, tiny):
    path, model = tiny(family)
    loaded = load(path, read_rules(RULES / "deepseek_cpu.yaml"))
    found = kinds(loaded)
    assert found["model"] == "LayeredModel"
    assert found["model.layers.0.self_attn"] == "Delegate"
    assert found["model.layers.0.mlp.gate_proj"] == "Linear"
    assert found["model.layers.1.mlp.experts"] == "Experts"
    assert not any("self_attn." in name for name in found)
    if family == "deepseek_v2":
        assert found["model.layers.1.mlp"] == "Delegate"
        assert found["model.rotary_emb"] == "Rotary"
    with torch.inference_mode():
        got = loaded.model(torch.tensor([TEXT])).logits[0]
    torch.testing.assert_close(got, reference_logits(model, TEXT), atol=1e-4, rtol=1e-4)


def test_layers_are_spread_over_gpus():
    config = config_of("mixtral")
    config.num_hidden_layers = 40
    spread = read_rules(RULES / "deepseek_two_gpus.yaml")
    found = assign(skeleton(config, torch.float32), spread, "cuda:0")
    devices = {name: assignment.device for name, assignment in found.items()}
    assert devices["model.embed_tokens"] == "cpu"
    assert devices["model.layers.29.self_attn.q_proj"] == "cuda:0"
    assert devices["model.layers.30.self_attn.q_proj"] == "cuda:1"
    assert devices["model.layers.39.input_layernorm"] == "cuda:1"
    assert devices["model.layers.5.mlp.experts"] == devices["model.layers.35.mlp.experts"] == "cpu"
    assert devices["model.norm"] == devices["lm_head"] == "cuda:0"


def test_rules_for_fine_tuning_inject(tiny):
    path, model = tiny("qwen3_moe")
    loaded = load(path, read_rules(RULES / "tuning.yaml"))
    assert set(kinds(loaded).values()) == {"Experts"}
    with torch.inference_mode():
        got = loaded.model(torch.tensor([TEXT])).logits[0]
    torch.testing.assert_close(got, reference_logits(model, TEXT), atol=1e-4, rtol=1e-4)


def test_device_rules_alone_change_nothing_but_devices(tiny):
    path, model = tiny("olmoe")
    loaded = load(path, read_rules(RULES / "placement.yaml"))
    assert kinds(loaded) == {}
    with torch.inference_mode():
        got = loaded.model(torch.tensor([TEXT])).logits[0]
    torch.testing.assert_close(got, reference_logits(model, TEXT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("op", ["QuantizedLinearMarlin", "KLinearMarlin", "KLinearFP8"])
def test_a_backend_that_does_not_exist_is_refused_with_an_alternative(op):
    text = f"""
- match: {{class: torch.nn.Linear}}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {{generate_op: {op}}}
"""
    with pytest.raises(UsageError) as caught:
        inject(bare("mixtral"), rules(text), None, None)
    assert op in caught.value.what and "rule 1" in caught.value.what
    assert "KLinearTorch" in caught.value.fix


def test_the_marlin_rule_loads_and_is_refused_when_applied(tiny):
    path, _ = tiny("deepseek_v2")
    marlin = read_rules(RULES / "marlin.yaml")
    with pytest.raises(UsageError, match="Marlin"):
        load(path, marlin)


def test_an_operator_from_a_plain_file_runs(tiny):
    path, model = tiny("qwen2_moe")
    loaded = load(path, read_rules(RULES / "own_linear.yaml"))
    with torch.inference_mode():
        got = loaded.model(torch.tensor([TEXT])).logits[0]
    torch.testing.assert_close(got, reference_logits(model, TEXT), atol=1e-4, rtol=1e-4)
    own = loaded.model.model.layers[0].self_attn.q_proj
    assert type(own).__name__ == "OwnLinear"
    assert (own.my_param, own.calls) == (3, 1)
    own.unload()
    assert own.w is None


def test_both_criteria_must_hold(tiny):
    path, _ = tiny("mixtral")
    text = "- match: {name: 'q_proj$', class: torch.nn.Linear}\n  replace: {class: Linear}"
    found = kinds(load(path, rules(text)))
    assert found == {f"model.layers.{n}.self_attn.q_proj": "Linear" for n in (0, 1)}
    with pytest.raises(UsageError, match="matches this model"):
        load(path, rules(text.replace("q_proj$", "embed_tokens")))


def test_the_first_match_wins():
    text = """
- match: {name: 'layers.0.*q_proj'}
  replace: {class: default, generate_device: meta}
- match: {class: torch.nn.Linear}
  replace: {class: Linear, generate_device: cpu}
"""
    found = assign(bare("mixtral"), rules(text), "cpu")
    assert found["model.layers.0.self_attn.q_proj"].rule.number == 1
    assert found["model.layers.0.self_attn.k_proj"].rule.number == 2


def test_no_recursion_below_a_rule_that_forbids_it():
    text = """
- match: {name: 'layers.0.self_attn$'}
  replace: {class: default, generate_device: meta}
  recursive: False
- match: {class: torch.nn.Linear}
  replace: {class: Linear}
"""
    found = assign(bare("mixtral"), rules(text), "cpu")
    assert found["model.layers.0.self_attn.q_proj"].rule is None
    assert found["model.layers.0.self_attn.q_proj"].device == "meta"
    assert found["model.layers.1.self_attn.q_proj"].rule.number == 2


def test_classes_match_by_short_public_and_inherited_names():
    linear = torch.nn.Linear(2, 2, device="meta")
    assert is_instance(linear, "Linear") and is_instance(linear, "torch.nn.Linear")
    assert is_instance(linear, "torch.nn.Module")
    assert not is_instance(linear, "other.package.Linear")
    assert not is_instance(linear, "torch.nn.LayerNorm")


def test_a_rule_that_takes_no_module_is_reported(tiny):
    path, _ = tiny("mixtral")
    text = """
- match: {class: torch.nn.Linear}
  replace: {class: Linear}
- match: {name: 'no such module'}
  replace: {class: Linear}
"""
    assert any("rule 2 takes no module" in note for note in load(path, rules(text)).notes)


def test_an_operator_that_cannot_stand_for_a_module_says_why(tiny):
    path, _ = tiny("mixtral")
    text = "- match: {name: 'self_attn$|lm_head'}\n  replace: {class: Linear}"
    loaded = load(path, rules(text))
    assert kinds(loaded) == {"lm_head": "Linear"}
    assert loaded.injection.declined["model.layers.0.self_attn"] == "it is not a linear layer"


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("Linea", "unknown operator `Linea`"),
        ("no_such_package.Thing", "cannot import `no_such_package`"),
        ("kt_cli.embedded.operators.Thing", "has no class `Thing`"),
        ("none.py:Thing", "no operator file"),
        ("own_linear.py:Thing", "has no class `Thing`"),
        ("own_linear.py:NotAnOperator", "is not an operator"),
    ],
)
def test_a_wrong_class_is_named_with_its_rule(name, fact, tiny):
    path, _ = tiny("mixtral")
    with pytest.raises(UsageError) as caught:
        load(path, rules(f"- match: {{name: lm_head}}\n  replace: {{class: '{name}'}}"))
    assert fact in caught.value.what and "rule 1" in caught.value.what


def test_an_operator_that_fails_when_made_is_named(tmp_path, tiny):
    path, _ = tiny("mixtral")
    (tmp_path / "bad.py").write_text(
        "from kt_cli.embedded.operators import BaseInjectedModule\n"
        "class Bad(BaseInjectedModule):\n"
        "    def __init__(self, *a, **k):\n"
        "        raise ZeroDivisionError('oh')\n"
    )
    text = "- match: {name: lm_head}\n  replace: {class: 'bad.py:Bad'}"
    with pytest.raises(UsageError) as caught:
        load(path, rules(text, tmp_path / "r.yaml"))
    assert "`Bad` cannot be made for `lm_head`" in caught.value.what
    assert "ZeroDivisionError: oh" in caught.value.why


def test_injection_loads_no_weights(tiny):
    path, _ = tiny("mixtral")
    model = skeleton(read_config(path, False), torch.float32)
    inject(
        model,
        rules("- match: {class: torch.nn.Linear}\n  replace: {class: Linear}"),
        Parameters(model, Checkpoint(path)),
        model.config,
    )
    assert all(parameter.is_meta for parameter in model.parameters())
