"""Which rule applies to which module, and on which device the module lives."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kt_cli.embedded.inject.names import class_names, short
from kt_cli.embedded.inject.rules import Rule

if TYPE_CHECKING:
    from torch import nn

# Packages whose classes an older rule may name although the module comes from transformers.
_FOREIGN = ("ktransformers", "transformers_modules")


@dataclass(frozen=True, slots=True)
class Assignment:
    rule: Rule | None
    device: str


@dataclass(frozen=True, slots=True)
class _Inherited:
    device: str
    blocked: bool = False
    transfer: Mapping[int, str] | None = None


def matches(rule: Rule, name: str, module: nn.Module) -> bool:
    if rule.name is not None and not rule.name.search(name):
        return False
    return rule.class_name is None or is_instance(module, rule.class_name)


def is_instance(module: object, wanted: str) -> bool:
    """Like `isinstance`, by dotted or short name, without importing what the rule names."""
    names, package = class_names(wanted), wanted.rpartition(".")[0]
    for candidate in type(module).__mro__:
        if candidate.__name__ in names and _same_place(candidate, package, short(wanted)):
            return True
    return False


def _same_place(candidate: type, package: str, name: str) -> bool:
    top = package.partition(".")[0]
    if not package or top in _FOREIGN or candidate.__module__ == package:
        return True
    # A public alias such as torch.nn.Linear, which is defined in torch.nn.modules.linear.
    return getattr(sys.modules.get(package), name, None) is candidate


def assign(model: nn.Module, rules: Sequence[Rule], device: str) -> dict[str, Assignment]:
    """The first matching rule of every module below `model`, by name.

    A module that no rule matches lives where the nearest matched module above it lives.
    """
    return dict(_walk(model, "", rules, _Inherited(device)))


def _walk(
    module: nn.Module, prefix: str, rules: Sequence[Rule], inherited: _Inherited
) -> Iterator[tuple[str, Assignment]]:
    for child_name, child in module.named_children():
        name = f"{prefix}{child_name}"
        rule = None
        if not inherited.blocked:
            rule = next((rule for rule in rules if matches(rule, name, child)), None)
        device = _device(rule, child_name, inherited)
        yield name, Assignment(rule, device)
        below = _below(rule, child_name, device, inherited)
        yield from _walk(child, f"{name}.", rules, below)


def _device(rule: Rule | None, child_name: str, inherited: _Inherited) -> str:
    if rule is not None and rule.device is not None:
        return rule.device
    if inherited.transfer and child_name.isdigit():
        return _transferred(int(child_name), inherited.transfer, inherited.device)
    return inherited.device


def _transferred(layer: int, transfer: Mapping[int, str], device: str) -> str:
    """The device of a layer: the entry with the greatest layer number not above it."""
    starts = [start for start in transfer if start <= layer]
    return str(transfer[max(starts)]) if starts else device


def _below(rule: Rule | None, child_name: str, device: str, above: _Inherited) -> _Inherited:
    transfer = above.transfer
    if rule is not None and rule.kwargs.get("transfer_map"):
        transfer = rule.kwargs["transfer_map"]
    elif child_name.isdigit():
        transfer = None
    blocked = above.blocked or (rule is not None and not rule.recursive)
    return _Inherited(device, blocked, transfer)
