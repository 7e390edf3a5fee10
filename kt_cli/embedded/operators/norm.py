"""Root-mean-square norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kt_cli.embedded.operators.base import BaseInjectedModule


class RmsNorm(BaseInjectedModule):
    """One call instead of the six of the model's own code; same result up to rounding."""

    weight: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = float(self.orig_module.variance_epsilon)
        self.orig_module = None

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Any) -> str | None:
        if hasattr(module, "variance_epsilon") and len(module._parameters) == 1:
            return None
        return "its norm is not the plain root-mean-square norm"

    def load(self) -> None:
        self.weight = self.read("weight")

    def unload(self) -> None:
        del self.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
