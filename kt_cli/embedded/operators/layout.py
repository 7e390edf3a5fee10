"""How transformers lays out the experts of a layer: one tensor for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.integrations import moe


@dataclass(frozen=True, slots=True)
class Layout:
    """gate_up is [E, 2I, H] or, transposed, [E, H, 2I]; without gate `up` is [E, I, H].

    `plain_gate`: the first half of gate_up is the gate, and the result is act(gate)·up.
    """

    experts: int
    hidden: int
    intermediate: int
    transposed: bool
    biased: bool
    gated: bool
    plain_gate: bool
    act: Callable[[torch.Tensor], torch.Tensor] | None
    apply_gate: Callable[[torch.Tensor], torch.Tensor]

    @property
    def up_name(self) -> str:
        return "gate_up_proj" if self.gated else "up_proj"

    @property
    def act_name(self) -> str:
        return type(self.act).__name__

    @classmethod
    def of(cls, module: Any) -> Layout:
        plain = getattr(type(module), "_apply_gate", None) is moe._default_apply_gate
        experts, outputs, inputs = module.down_proj.shape
        return cls(
            experts=experts,
            hidden=inputs if module.is_transposed else outputs,
            intermediate=outputs if module.is_transposed else inputs,
            transposed=module.is_transposed,
            biased=module.has_bias,
            gated=module.has_gate,
            plain_gate=plain and getattr(module, "is_concatenated", True),
            act=getattr(module, "act_fn", None),
            apply_gate=module._apply_gate,
        )

    @staticmethod
    def problem(module: nn.Module) -> str | None:
        """Why a module is not such experts."""
        if not all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed")):
            return f"{type(module).__name__} does not keep its experts as one tensor"
        up = "gate_up_proj" if module.has_gate else "up_proj"
        if not all(isinstance(getattr(module, n, None), nn.Parameter) for n in (up, "down_proj")):
            return f"{type(module).__name__} has no {up} and down_proj"
        if getattr(module, "has_post_expert_norm", False):
            return f"{type(module).__name__} norms the output of every expert"
        return None
