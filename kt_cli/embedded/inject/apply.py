"""Puts the operators in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kt_cli.embedded.inject.match import Assignment, assign
from kt_cli.embedded.inject.resolve import operator_class, refuse_missing_backends
from kt_cli.embedded.inject.rules import Rule
from kt_cli.errors import KtError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from kt_cli.embedded.operators.base import BaseInjectedModule
    from kt_cli.embedded.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Injection:
    """`declined` tells for each module an operator could not take over why it kept its own code."""

    assignments: Mapping[str, Assignment]
    operators: Mapping[str, BaseInjectedModule]
    declined: Mapping[str, str]
    unused: tuple[Rule, ...]

    @property
    def devices(self) -> dict[str, str]:
        return {name: assignment.device for name, assignment in self.assignments.items()}


def inject(
    model: nn.Module, rules: Sequence[Rule], loader: Parameters, config: Any, device: str = "cpu"
) -> Injection:
    """Replaces modules of `model` by the operators the rules name. Loads no weights.

    Raises `UsageError` when no rule matches anything, or one cannot be applied.
    """
    for given in rules:
        refuse_missing_backends(given)
    assignments = assign(model, rules, device)
    modules = dict(model.named_modules())
    operators: dict[str, BaseInjectedModule] = {}
    declined: dict[str, str] = {}
    for name, assignment in assignments.items():
        rule = assignment.rule
        if rule is None or rule.is_default:
            continue
        kind = operator_class(rule)
        reason = kind.declines(modules[name], config, rule.kwargs)
        if reason is not None:
            declined[name] = reason
            continue
        operator = _build(kind, rule, name, loader, config, modules[name], assignment.device)
        parent, _, child = name.rpartition(".")
        modules[parent]._modules[child] = operator
        operators[name] = operator
    return Injection(assignments, operators, declined, _unused(rules, assignments))


def _build(
    kind: type[BaseInjectedModule],
    rule: Rule,
    name: str,
    loader: Parameters,
    config: Any,
    module: nn.Module,
    device: str,
) -> BaseInjectedModule:
    kwargs = {key: value for key, value in rule.kwargs.items() if key != "generate_device"}
    try:
        return kind(name, loader, config, module, device, **kwargs)
    except KtError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        what = f"{rule.where}: `{kind.__name__}` cannot be made for `{name}`"
        raise UsageError(what, reason) from error


def _unused(rules: Sequence[Rule], assignments: Mapping[str, Assignment]) -> tuple[Rule, ...]:
    used = {a.rule.number for a in assignments.values() if a.rule is not None}
    unused = tuple(rule for rule in rules if rule.number not in used)
    if rules and len(unused) == len(rules):
        why = "their names and classes fit none of its modules"
        raise UsageError(f"no rule of {rules[0].source} matches this model", why)
    return unused
