"""The routed experts of a MoE layer, whatever family they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from kt_cli.embedded.operators.base import BaseInjectedModule
from kt_cli.embedded.operators.experts_kt import (
    KtMoeExperts,
    KtMoeOptions,
    packed,
    wanted,
    why_not_kt_moe,
)
from kt_cli.embedded.operators.experts_torch import TorchExperts
from kt_cli.embedded.operators.layout import Layout
from kt_cli.embedded.parameters import Parts
from kt_cli.errors import EnvironmentBroken, UsageError

# `generate_op` of older rules, and `backend` of both kinds → (backend, weight format or None).
_BACKENDS: dict[str, tuple[str, str | None]] = {
    "auto": ("auto", None),
    "torch": ("torch", None),
    "kt_moe": ("kt_moe", None),
    "KExpertsTorch": ("torch", None),
    "MLPCUDAExperts": ("torch", None),
    "KExpertsCPU": ("auto", None),
    "MLPCPUExperts": ("auto", None),
    "KSFTExpertsCPU": ("auto", None),
    "llamafile": ("auto", None),
    "AMXBF16": ("auto", "bf16"),
    "AMXInt8": ("kt_moe", "int8"),
}


FORMATS = ("bf16", "int8", "int4")


def _known_format(name: str | None) -> str | None:
    if name not in (None, *FORMATS):
        raise UsageError(f"no expert format `{name}`", f"known are {', '.join(FORMATS)}")
    return name


class _Backend(Protocol):
    def __call__(
        self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor: ...


class Experts(BaseInjectedModule):
    """`forward(hidden [T, H], ids [T, K], weights [T, K])` → [T, H].

    `backend` is `kt_moe`, `torch` or `auto`, which takes `kt_moe` where it can. `format` is the
    weight format of `kt_moe`.
    """

    moves_input = True

    def __init__(
        self,
        *args: Any,
        backend: str | None = None,
        generate_op: str | None = None,
        prefill_op: str | None = None,
        format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        wanted = self.loader.experts_backend or backend or generate_op or "auto"
        if wanted not in _BACKENDS:
            known = ", ".join(f"`{name}`" for name in _BACKENDS)
            raise UsageError(f"{self.key}: no experts backend `{wanted}`", f"known are {known}")
        self.backend, default_format = _BACKENDS[wanted]
        asked = self.loader.experts_format or format
        self.format = _known_format(asked or default_format)
        self.exact = self.loader.exact and not asked
        self.layout = Layout.of(self.orig_module)
        self.compute: _Backend | None = None

    @classmethod
    def declines(cls, module: nn.Module, config: Any, options: Mapping[str, Any]) -> str | None:
        return Layout.problem(module)

    def load(self) -> None:
        why = why_not_kt_moe(self.layout, self.device, self.exact)
        packed = self.format not in (None, "bf16")
        if packed and self.backend == "torch":
            why = "torch computes experts as they are stored"
        if why is not None and (self.backend == "kt_moe" or packed):
            fix = "use the backend `torch`, which keeps the stored format"
            raise EnvironmentBroken(f"{self.key} cannot run on kt_moe", why, fix)
        if self.backend == "torch" or why is not None:
            self.compute = TorchExperts(self.layout, self.read)
        else:
            options = KtMoeOptions(self.format or "bf16", self._top_k(), self.loader.threads)
            self.compute = KtMoeExperts(self._packed(options), options.threads)

    def _packed(self, options: KtMoeOptions) -> Any:
        """From disk where an earlier start has left them."""

        def matrices(name: str) -> list[Parts]:
            return self.loader.matrices(f"{self.key}.{name}")

        def pack() -> Any:
            return packed(self.layout, matrices, options)

        made = self.loader.packs.experts(self.key, wanted(self.layout, options), pack)
        self.loader.passed(f"{self.key}.{name}" for name in (self.layout.up_name, "down_proj"))
        return made

    def unload(self) -> None:
        self.compute = None

    def _top_k(self) -> int:
        return int(getattr(self.config.get_text_config(), "num_experts_per_tok", None) or 1)

    def forward(
        self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        return self.start(hidden, ids, weights)()

    def start(
        self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
    ) -> Callable[[], torch.Tensor]:
        """What `forward` gives, when it is called; until then the GPU is free for other work."""
        compute = self.compute
        if compute is None:
            raise RuntimeError(f"{self.key} is not loaded")
        if self.device == "cpu" and hidden.is_cuda:
            done = self._cross(hidden, ids, weights, compute)
            return done if self.out_device is None else lambda: done().to(self.out_device)
        if self.device == "cpu" and hidden.device.type == "cpu":
            return lambda: compute(hidden, ids, weights)
        place = self.out_device or hidden.device
        there = [t.to(self.device) for t in (hidden, ids, weights)]
        return lambda: compute(*there).to(place)

    def _cross(
        self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, compute: _Backend
    ) -> Callable[[], torch.Tensor]:
        if isinstance(compute, KtMoeExperts):
            return self.loader.crossing.packed(hidden, ids, weights, compute.layer)
        return self.loader.crossing.any(hidden, ids, weights, compute)
