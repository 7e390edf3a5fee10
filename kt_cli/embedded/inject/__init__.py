"""Injection: YAML rules that put operators in place of a model's modules."""

from kt_cli.embedded.inject.apply import Injection, inject
from kt_cli.embedded.inject.rules import Rule, parse_rules, read_rules

__all__ = ["Injection", "Rule", "inject", "parse_rules", "read_rules"]
