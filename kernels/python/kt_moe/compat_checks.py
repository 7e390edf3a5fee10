"""What `KTMoEWrapper` is given: checked, with the fact that does not fit in the message."""

from __future__ import annotations

from typing import TypeAlias

import torch

from kt_moe.checkpoints import METHODS

Tensor: TypeAlias = torch.Tensor
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_call(x: Tensor, ids: Tensor, weights: Tensor, hidden: int, top_k: int) -> None:
    """x [T, H], ids and weights [T, K]."""
    if x.shape[1] != hidden:
        raise ValueError(f"hidden_states have size {x.shape[1]}, not {hidden}")
    if x.dtype not in FLOATS:
        raise TypeError(f"hidden_states are {x.dtype}, not float32, float16 or bfloat16")
    wanted = (len(x), top_k)
    for name, given in (("topk_ids", ids), ("topk_weights", weights)):
        if tuple(given.shape) != wanted:
            raise ValueError(f"{name} have shape {tuple(given.shape)}, not {wanted}")
    if ids.is_floating_point():
        raise TypeError(f"topk_ids are {ids.dtype}, not integers")


def expert_order(mapping: Tensor | None, experts: int) -> list[int]:
    """The expert of the file that each slot takes; None is the order of the file."""
    if mapping is None:
        return list(range(experts))
    order: list[int] = mapping.reshape(-1).tolist()
    if len(order) != experts or min(order) < 0 or max(order) >= experts:
        raise ValueError(
            f"the expert map has {len(order)} entries from {min(order, default=0)} to "
            f"{max(order, default=0)}, and there are {experts} experts"
        )
    return order


def gpu_mask(mask: Tensor | int | None, count: int, experts: int) -> Tensor:
    """True for experts that live on a GPU, from a mask or from the number of the first ones."""
    if isinstance(mask, int):
        return gpu_mask(None, mask, experts)
    if mask is None:
        if not 0 <= count <= experts:
            raise ValueError(f"num_gpu_experts is {count}, and there are {experts} experts")
        return torch.arange(experts) < count
    if tuple(mask.shape) != (experts,):
        raise ValueError(f"gpu_experts_mask has shape {tuple(mask.shape)}, not {(experts,)}")
    return mask.to(device="cpu", dtype=torch.bool, copy=True).contiguous()


def check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {shape}")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} is {tensor.dtype}, not float32, float16 or bfloat16")


def check_sizes(experts: int, top_k: int, hidden: int, intermediate: int) -> None:
    named = {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "hidden_size": hidden,
        "moe_intermediate_size": intermediate,
    }
    for name, size in named.items():
        if size < 1:
            raise ValueError(f"{name} must be positive, not {size}")
    if top_k > experts:
        raise ValueError(f"num_experts_per_tok ({top_k}) exceeds num_experts ({experts})")


def check_method(method: str, mode: str, limit: float, alpha: float) -> None:
    if mode != "inference":
        raise NotImplementedError(f"mode {mode!r}: this interface is for inference")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if limit or alpha:
        raise NotImplementedError(
            f"swiglu_limit={limit} and swiglu_alpha={alpha}: only plain SiLU is supported"
        )
