"""What stored tensors really are: weights or scales, packed or plain, in which format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kt_cli.catalog.naming import Role, role
from kt_cli.core.model import Quantization
from kt_cli.weights.headers import BITS, TensorInfo

INTEGERS = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL"})
FLOATS = {"BF16": "bf16", "F16": "fp16", "F32": "fp32"}


def parameters_of(info: TensorInfo, quantization: Quantization | None) -> int:
    """Weights that a tensor stands for: none for scales, several per item for packed ones."""
    if role(info.name).scale:
        return 0
    if quantization is None or info.dtype not in INTEGERS or info.name.endswith("tid2eid"):
        return info.elements
    return info.elements * BITS[info.dtype] // quantization.bits


def expert_weights(tensors: Sequence[TensorInfo]) -> list[TensorInfo]:
    """Weights of routed experts, without biases and scales."""
    return [info for info in tensors if _is_matrix(info, role(info.name))]


def _is_matrix(info: TensorInfo, known: Role) -> bool:
    if known.kind != "routed_experts" or known.scale or info.name.endswith("bias"):
        return False
    return len(info.shape) >= (2 if known.single else 3)


def expert_dtype(tensors: Sequence[TensorInfo]) -> str:
    """The float format of the experts' weights, of all weights where there are no experts."""
    kinds = Counter(t.dtype for t in expert_weights(tensors) or tensors if len(t.shape) > 1)
    common = kinds.most_common(1)
    return FLOATS.get(common[0][0], common[0][0].lower()) if common else ""


def stored_quantization(
    tensors: Sequence[TensorInfo], stated: Quantization | None
) -> Quantization | None:
    """What the configuration states, corrected by what the experts are stored as."""
    experts = expert_weights(tensors)
    if stated is None or not experts:
        return stated
    kinds = {info.dtype for info in experts}
    if kinds <= set(FLOATS):
        plain = FLOATS[next(iter(kinds))]
        return Quantization(plain, 16, 0, f"experts are not quantised, the rest is {stated.method}")
    if stated.method == "fp8" and any(_row_scales(t, stated) for t in tensors):
        return replace(stated, method="fp8_channel", group=0)
    return stated


def _row_scales(info: TensorInfo, stated: Quantization) -> bool:
    return info.name.endswith("weight_scale") and len(info.shape) == 2 and info.shape[-1] == 1
