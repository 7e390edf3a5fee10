"""Routers in float32: in bfloat16 the logits of experts tie, and then the choice is arbitrary."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kt_cli.embedded.operators.base import BaseInjectedModule


class Router(BaseInjectedModule):
    """The model's own router, with its weights and its input in float32."""

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Any) -> str | None:
        kind = type(module).__name__
        if isinstance(module, nn.Linear) or kind.lower().endswith(("router", "gate")):
            return None
        return f"{kind} is not a router"

    def load(self) -> None:
        super().load()
        if self.orig_module is not None:
            self.orig_module.float()

    def forward(self, hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(hidden.float(), *args, **kwargs)
