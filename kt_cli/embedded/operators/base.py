"""What every operator is, and how the modules that keep their own code get their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kt_cli.embedded.parameters import Parameters


class BaseInjectedModule(nn.Module):  # type: ignore[misc]
    """Stands where `orig_module` stood; attributes it lacks come from there.

    `key` is the module's name in the model, `loader` reads parameters by such names,
    `device` is where the operator computes. Weights arrive in `load`, never in the constructor.
    """

    orig_module: Any
    moves_input = False
    """Whether `forward` takes tensors from any device and decides itself where its result goes."""

    def __init__(
        self,
        key: str,
        loader: Parameters,
        config: Any,
        orig_module: nn.Module | None = None,
        generate_device: str = "cpu",
        *,
        prefill_device: str | None = None,
        out_device: str | None = None,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.key = key
        self.loader = loader
        self.gguf_loader = loader
        self.config = config
        self.orig_module = orig_module
        self.device = self.generate_device = generate_device
        self.prefill_device = prefill_device or generate_device
        self.out_device = out_device
        self.options = kwargs

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Mapping[str, Any]) -> str | None:
        """Why this operator cannot stand for `module`, or None when it can."""
        return None

    def load(self) -> None:
        """Loads what `orig_module` holds, at the places its rules gave it."""
        if self.orig_module is not None:
            load_module(self.orig_module, self.key, self.loader, self.device)

    def unload(self) -> None:
        if self.orig_module is not None:
            self.orig_module.to("meta")

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Parameter `name` below this module, on its device."""
        return self.loader.read(f"{self.key}.{name}", dtype, self.device)

    def has(self, name: str) -> bool:
        return self.loader.has(f"{self.key}.{name}")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.orig_module is None:
            raise NotImplementedError(f"{type(self).__name__} has no forward")
        return self.orig_module(*args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch refuses a parameter whose name is taken: by `orig_module`, or by an earlier None.
        if isinstance(value, nn.Parameter) and "_parameters" in self.__dict__:
            self.__dict__.pop(name, None)
            self._parameters[name] = value
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("_modules", {}).get("orig_module")
            if original is None:
                raise
            return getattr(original, name)


def load_module(module: nn.Module, key: str, loader: Parameters, device: str) -> None:
    """Loads a module that keeps its own code, and everything below it."""
    for child, below in module.named_children():
        if isinstance(below, BaseInjectedModule):
            below.load()
        else:
            name = child_name(key, child)
            load_module(below, name, loader, loader.devices.get(name, device))
    for name in module._parameters:
        if module._parameters[name] is not None:
            value = loader.read(child_name(key, name), device=device)
            module._parameters[name] = nn.Parameter(value, requires_grad=False)
    for name, buffer in module._buffers.items():
        full = child_name(key, name)
        if buffer is not None and full in loader.meta:
            module._buffers[name] = loader.read(full, device=device)


def child_name(parent: str, child: str) -> str:
    """The name in the model; an operator and the module it stands for have the same one."""
    if child == "orig_module":
        return parent
    return f"{parent}.{child}" if parent else child
