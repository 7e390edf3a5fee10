"""Modules on several devices: each gets its inputs where it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from kt_cli.embedded.operators.base import child_name


def move_inputs(model: nn.Module, devices: Mapping[str, str], device: str) -> None:
    """Moves the tensors that enter a module which lives elsewhere than its parent or siblings.

    With one device for everything nothing is installed.
    """
    if set(devices.values()) <= {device}:
        return
    around: dict[str, set[str]] = {}
    for name, place in devices.items():
        parent = name.rpartition(".")[0]
        around.setdefault(parent, {devices.get(parent, device)}).add(place)
    for name, module in _named(model, ""):
        if getattr(module, "moves_input", False):
            continue
        if len(around.get(name.rpartition(".")[0], ())) > 1 and name in devices:
            module.register_forward_pre_hook(_Mover(devices[name]), with_kwargs=True)


def _named(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules under the names they have in the model; an operator only once, itself."""
    for child, below in module.named_children():
        below_name = child_name(name, child)
        if child != "orig_module":
            yield below_name, below
        yield from _named(below, below_name)


class _Mover:
    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        moved: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(self._move, (args, kwargs))
        return moved

    def _move(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value
