"""Linear layers."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from kt_cli.embedded.operators.base import BaseInjectedModule

LoadedWeight: TypeAlias = nn.Parameter | tuple[nn.Parameter, nn.Parameter]


class KLinearBase:
    """Reads the weights of a linear layer for an operator that computes it its own way.

    Inherit from `BaseInjectedModule` and from this, write `load`, `unload` and `forward`.
    """

    key: str
    loader: Any
    orig_module: Any

    def __init__(self) -> None:
        self.in_features: int = self.orig_module.in_features
        self.out_features: int = self.orig_module.out_features
        self.has_bias = False

    def load_weight(
        self, override_key: str | None = None, device: str | None = None
    ) -> LoadedWeight:
        """The weight [out, in], or the weight and the bias [out] where there is one."""
        key = override_key or self.key
        place = device or getattr(self, "device", "cpu")
        weight = nn.Parameter(self.loader.read(f"{key}.weight", device=place), requires_grad=False)
        if not self.loader.has(f"{key}.bias"):
            return weight
        bias = nn.Parameter(self.loader.read(f"{key}.bias", device=place), requires_grad=False)
        return weight, bias


class Linear(BaseInjectedModule, KLinearBase):
    """The layer as torch computes it, on a device of its own; the result goes where x came from."""

    moves_input = True
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        BaseInjectedModule.__init__(self, *args, **kwargs)
        KLinearBase.__init__(self)
        self.orig_module = None
        self.weight = self.bias = None

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Any) -> str | None:
        return None if isinstance(module, nn.Linear) else "it is not a linear layer"

    def load(self, w: LoadedWeight | None = None, device: str | None = None) -> None:
        loaded = w if w is not None else self.load_weight(device=device)
        weight, bias = loaded if isinstance(loaded, tuple) else (loaded, None)
        self.weight, self.bias = weight.data, None if bias is None else bias.data
        self.has_bias = bias is not None

    def unload(self) -> None:
        self.weight = self.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is None:
            raise RuntimeError(f"{self.key} is not loaded")
        moved = x.to(self.weight.device, self.weight.dtype)
        return functional.linear(moved, self.weight, self.bias).to(x.device, x.dtype)
