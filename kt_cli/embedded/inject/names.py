"""Names of operators and classes: ours, short forms, and those of the older ktransformers rules.

The older names are the ones its tutorial and its published optimize rules use. A rule that names a
backend which does not exist here is refused, with the name to use instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_OPERATORS = "kt_cli.embedded.operators"

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "Linear": f"{_OPERATORS}.linear.Linear",
        "Experts": f"{_OPERATORS}.experts.Experts",
        "Router": f"{_OPERATORS}.router.Router",
        "Attention": f"{_OPERATORS}.delegate.Delegate",
        "MoeBlock": f"{_OPERATORS}.delegate.Delegate",
        "Rotary": f"{_OPERATORS}.rope.Rotary",
        "LayeredModel": f"{_OPERATORS}.delegate.LayeredModel",
        "RmsNorm": f"{_OPERATORS}.norm.RmsNorm",
        "Decoder": f"{_OPERATORS}.decoder.Decoder",
        "GqaAttention": f"{_OPERATORS}.attention.GqaAttention",
        "SparseMoe": f"{_OPERATORS}.moe.SparseMoe",
        "DenseMlp": f"{_OPERATORS}.moe.DenseMlp",
    }
)

_OLD = {
    "Linear": ("KTransformersLinear", "KLinearTorch", "KLinearCPUInfer"),
    "Experts": (
        "KTransformersExperts",
        "KTransformersExpertsV2",
        "KExpertsTorch",
        "KExpertsCPU",
        "MLPCPUExperts",
        "MLPCUDAExperts",
        "KSFTExpertsCPU",
    ),
    "Attention": (
        "KDeepseekV2Attention",
        "KQwen2MoeAttention",
        "KQwen3MoeAttention",
        "KMixtralAttention",
    ),
    "MoeBlock": (
        "KDeepseekV2MoE",
        "KDeepseekV3MoE",
        "KMistralSparseMoEBlock",
        "KQwen2MoeSparseMoeBlock",
        "KQwen3MoeSparseMoeBlock",
    ),
    "Rotary": (
        "RotaryEmbedding",
        "RotaryEmbeddingV2",
        "RotaryEmbeddingV3",
        "KQwen3MoeRotaryEmbedding",
        "YarnRotaryEmbedding",
        "YarnRotaryEmbeddingV3",
    ),
    "LayeredModel": ("KDeepseekV2Model", "KQwen2MoeModel", "KQwen3MoeModel"),
    "RmsNorm": ("KDeepseekRMSNorm", "KQwen3MoeRMSNorm", "KMistralRMSNorm", "RMSNorm"),
}

OLD_NAMES: Mapping[str, str] = MappingProxyType(
    {old: ours for ours, names in _OLD.items() for old in names}
)

REFUSED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "KLinearMarlin": ("Marlin", "KLinearTorch"),
        "QuantizedLinearMarlin": ("Marlin", "KLinearTorch"),
        "KExpertsMarlin": ("Marlin", "KExpertsTorch` or `KExpertsCPU"),
        "MLPExpertsMarlin": ("Marlin", "KExpertsTorch` or `KExpertsCPU"),
        "KLinearFP8": ("Triton FP8", "KLinearTorch"),
        "KLinearQ8": ("Triton INT8", "KLinearTorch"),
        "VLinearMarlin": ("Marlin", "KLinearTorch"),
    }
)

# Classes of older remote model code → the class in transformers that does the same.
_CLASSES = {
    "DeepseekV2MoE": ("DeepseekV2Moe",),
    "DeepseekV2YarnRotaryEmbedding": ("DeepseekV2RotaryEmbedding",),
    "DeepseekV3YarnRotaryEmbedding": ("DeepseekV3RotaryEmbedding",),
    "DeepseekV2FlashAttention2": ("DeepseekV2Attention",),
    "DeepseekV3FlashAttention2": ("DeepseekV3Attention",),
    "MoEGate": ("DeepseekV2TopkRouter", "DeepseekV3TopkRouter"),
    "MixtralBLockSparseTop2MLP": ("MixtralExperts",),
    "MixtralBlockSparseTop2MLP": ("MixtralExperts",),
}


def short(name: str) -> str:
    return name.rpartition(".")[2]


def class_names(name: str) -> frozenset[str]:
    """Short class names that a rule's `match.class` stands for."""
    return frozenset((short(name), *_CLASSES.get(short(name), ())))
