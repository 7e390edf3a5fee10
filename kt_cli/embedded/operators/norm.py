"""Root-mean-square norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kt_cli.embedded.operators.base import BaseInjectedModule

_FEW = 8


class RmsNorm(BaseInjectedModule):
    """One call instead of the six of the model's own code; same result up to rounding."""

    weight: torch.Tensor
    doubled: torch.Tensor

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
        self.doubled = self.weight.repeat(2)

    def unload(self) -> None:
        del self.weight, self.doubled

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.weight.shape
        if x.is_cuda or x.numel() > _FEW * size[0]:
            return functional.rms_norm(x, size, self.weight, self.eps)
        # On a CPU torch makes rms_norm of eight operations, but layer_norm is one. The mean of
        # (x, -x) is zero and its variance the mean square of x, so its first half is the norm.
        both = functional.layer_norm(
            torch.cat((x, -x), dim=-1), self.doubled.shape, self.doubled, None, self.eps
        )
        return both[..., : size[0]]
