"""Experts on torch: tokens grouped by expert, one matrix product per expert that is touched."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from kt_cli.embedded.operators.layout import Layout

Read = Callable[[str], torch.Tensor]


class TorchExperts:
    """Weights stay in the dtype they are computed in.

    Keeping them in bfloat16 and computing in float32 was measured on a CPU without bfloat16
    instructions and dropped: the conversion moves 10 bytes per weight where float32 moves 4.
    """

    def __init__(self, layout: Layout, read: Read) -> None:
        self.layout = layout
        self.up = read(layout.up_name).unbind(0)
        self.down = read("down_proj").unbind(0)
        if layout.transposed:
            self.up = tuple(weight.T for weight in self.up)
            self.down = tuple(weight.T for weight in self.down)
        none = (None,) * layout.experts
        bias = layout.biased
        self.up_bias = read(f"{layout.up_name}_bias").unbind(0) if bias else none
        self.down_bias = read("down_proj_bias").unbind(0) if bias else none

    def __call__(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if ids.shape[0] == 1:
            return self._one_token(x, ids, weights)
        tokens, top_k = ids.shape
        flat = ids.reshape(-1)
        order = flat.argsort(stable=True)
        rows = x[order // top_k]
        done, first = torch.empty_like(rows), 0
        for expert, count in enumerate(flat.bincount(minlength=self.layout.experts).tolist()):
            if count:
                last = first + count
                done[first:last] = self._expert(expert, rows[first:last])
                first = last
        back = torch.empty_like(rows).index_copy_(0, order, done).view(tokens, top_k, -1)
        return torch.einsum("tk,tkh->th", weights.float(), back.float()).to(x.dtype)

    def _one_token(self, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        done = torch.cat([self._expert(expert, x) for expert in ids[0].tolist()])
        return (weights.float() @ done.float()).to(x.dtype)

    def _expert(self, expert: int, x: torch.Tensor) -> torch.Tensor:
        layout = self.layout
        inner = functional.linear(x, self.up[expert], self.up_bias[expert])
        if layout.gated and layout.plain_gate and layout.act is not None:
            gate, up = inner.chunk(2, dim=-1)
            inner = layout.act(gate) * up
        elif layout.gated:
            inner = layout.apply_gate(inner)
        elif layout.act is not None:
            inner = layout.act(inner)
        return functional.linear(inner, self.down[expert], self.down_bias[expert])
