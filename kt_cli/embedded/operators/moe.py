"""MoE blocks and dense MLPs of the fast families (Mixtral, Qwen2-MoE, Qwen3-MoE)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from kt_cli.embedded.operators.base import BaseInjectedModule
from kt_cli.embedded.operators.experts import Experts


class DenseMlp(BaseInjectedModule):
    """act(gate·x) ⊙ up·x with gate and up as one product."""

    gate_up: torch.Tensor
    down: torch.Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.act = self.orig_module.act_fn

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Any) -> str | None:
        names = ("gate_proj", "up_proj", "down_proj")
        layers = [getattr(module, name, None) for name in names]
        plain = all(isinstance(layer, nn.Linear) and layer.bias is None for layer in layers)
        return None if plain else "it is not a plain gated MLP"

    def load(self) -> None:
        self.gate_up = torch.cat([self.read("gate_proj.weight"), self.read("up_proj.weight")])
        self.down = self.read("down_proj.weight")

    def unload(self) -> None:
        del self.gate_up, self.down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = functional.linear(x, self.gate_up).chunk(2, dim=-1)
        return functional.linear(self.act(gate) * up, self.down)


class SparseMoe(BaseInjectedModule):
    """Router in float32, routed experts, and the gated shared expert where there is one."""

    router: torch.Tensor
    shared_gate: torch.Tensor | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gate: Any = self.orig_module.gate
        self.top_k = int(gate.top_k)
        self.normed = bool(getattr(gate, "norm_topk_prob", True))
        self.shared_gate = None

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Any) -> str | None:
        if hasattr(getattr(module, "gate", None), "top_k") and hasattr(module, "experts"):
            return None
        return "it has no router with a top-k and no experts"

    def load(self) -> None:
        self.router = self.read("gate.weight", torch.float32)
        if self.has("shared_expert_gate.weight"):
            self.shared_gate = self.read("shared_expert_gate.weight")
        for name in ("experts", "shared_expert"):
            child = getattr(self.orig_module, name, None)
            if isinstance(child, BaseInjectedModule):
                child.load()
        experts: Any = self.orig_module.experts
        object.__setattr__(self, "experts", experts)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden.reshape(-1, hidden.shape[-1])
        logits = functional.linear(x.float(), self.router)
        if self.normed:
            best, ids = logits.topk(self.top_k, dim=-1)
            weights = best.softmax(dim=-1)
        else:
            weights, ids = logits.softmax(dim=-1).topk(self.top_k, dim=-1)
        routed = self._start(x, ids, weights)
        if self.shared_gate is None:
            return routed().view(hidden.shape)
        share = functional.linear(x, self.shared_gate).sigmoid()
        shared = share * self.orig_module.shared_expert(x)
        return (routed() + shared).view(hidden.shape)

    def _start(
        self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        """Our experts let the GPU work on while the CPU does; those of a user's rules may not."""
        if isinstance(self.experts, Experts):
            return self.experts.start(x, ids, weights)
        out: torch.Tensor = self.experts(x, ids, weights)
        return lambda: out
