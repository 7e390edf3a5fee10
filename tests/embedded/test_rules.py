"""The syntax of rules and what is said about a wrong one."""

from __future__ import annotations

import pytest

from kt_cli.embedded.inject import parse_rules, read_rules
from kt_cli.embedded.presets import rules_directory
from kt_cli.errors import NotFoundError, UsageError

GOOD = "- match: {name: 'layers', class: torch.nn.Linear}\n  replace: {class: Linear}\n"


def test_a_rule_keeps_what_it_says():
    text = """
- match: {name: '^model', class: a.b.C}
  replace:
    class: Linear
    out_device: cuda:1
    kwargs: {generate_device: cpu, size: 3}
  recursive: False
"""
    (rule,) = parse_rules(text, "r.yaml")
    assert (rule.name.pattern, rule.class_name, rule.replace) == ("^model", "a.b.C", "Linear")
    assert rule.kwargs == {"out_device": "cuda:1", "generate_device": "cpu", "size": 3}
    assert (rule.device, rule.recursive, rule.where) == ("cpu", False, "r.yaml, rule 1")


@pytest.mark.parametrize(
    "rest", ["replace: {class: default}\n  recursive: False", "replace: {recursive: False}"]
)
def test_recursive_stands_beside_or_inside_replace(rest):
    assert not parse_rules(f"- match: {{name: x}}\n  {rest}\n", "r")[0].recursive


def test_a_rule_without_a_class_only_sets_attributes():
    (rule,) = parse_rules("- match: {name: x}\n  replace: {generate_device: cpu}\n", "r")
    assert rule.is_default


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("a: [", "no YAML"),
        ("{}", "no list of rules"),
        ("[]", "no list of rules"),
        ("- 3", "the rule is not a mapping"),
        ("- match: {}\n  replace: {}", "needs `name`, `class` or both"),
        ("- match: {nam: x}\n  replace: {}", "unknown key `nam`"),
        ("- match: {name: '('}\n  replace: {}", "not a regular expression"),
        ("- match: {name: x}", "`replace` is not a mapping"),
        ("- match: {name: x}\n  replace: {class: 3}", "`replace.class` is not a text"),
        ("- match: {name: x}\n  replace: {kwargs: [1]}", "`kwargs` is not a mapping"),
        ("- match: {name: x}\n  replace: {generate_device: gpu}", "`generate_device` is 'gpu'"),
        ("- match: {name: x}\n  replace: {}\n  recursive: maybe", "neither True nor False"),
        (
            "- match: {name: x}\n  replace: {kwargs: {transfer_map: {a: cpu}}}",
            "`transfer_map` is not a mapping",
        ),
    ],
)
def test_a_wrong_rule_is_named_with_its_file_and_number(text, fact):
    text = GOOD + text if text.startswith("- ") else text
    with pytest.raises(UsageError) as caught:
        parse_rules(text, "mine.yaml")
    assert fact in caught.value.what + caught.value.why
    assert "mine.yaml" in caught.value.what
    assert not text.startswith("- ") or "rule 2" in caught.value.what


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize("file", sorted(rules_directory().glob("*.yaml")), ids=lambda f: f.name)
def test_shipped_rules_load(file):
    assert read_rules(file)
