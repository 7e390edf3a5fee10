"""What a tensor is for, told from its name in a checkpoint.

Covers the names of Hugging Face checkpoints, with their prefixes for text models inside
multimodal ones, of DeepSeek-V4's own and of llama.cpp's GGUF files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from kt_cli.core.model import TensorClass

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
LAYER = re.compile(r"(?:^|\.)(?:layers|blk)\.(\d+)\.")
EXPERT = re.compile(r"(?:^|\.)experts\.\d+\.")
# Companions of a quantised weight, which are no parameters of the model.
SCALES = re.compile(
    r"(scale|scales|scale_inv|scale_2|global_scale|zero_point|qzeros|g_idx|weight_shape)\Z"
)


@dataclass(frozen=True, slots=True)
class Role:
    """`part` is the projection of a routed expert, `single` true where experts are tensors of
    their own, `scale` true for what only helps to read a quantised weight."""

    kind: TensorClass | None
    part: str = ""
    single: bool = False
    scale: bool = False


# The first that is found in the name decides.
_RULES: Sequence[tuple[TensorClass, str]] = (
    ("draft", r"(^|\.)(mtp|nextn|eagle|dspark)\b|\.nextn\."),
    (
        "lookup",
        r"ngram_embedding|embed_tokens_per_layer|per_layer_token_embd"
        r"|(^|\.)engram\.(\w+\.)*(embed\w*|table\w*)\b",
    ),
    (
        "vision",
        r"(^|\.)(visual|vision_\w+|audio_\w+|mm_projector|multi_modal_projector"
        r"|patch_merge_mlp|mm|v)\.",
    ),
    ("routed_experts", r"(^|\.)experts\.|\.ffn_(gate|up|down|gate_up)_exps\."),
    ("shared_experts", r"\.shared_experts?[._]|\.shared_mlp\.|_shexp\."),
    (
        "router",
        r"\.(mlp|block_sparse_moe|feed_forward|ffn|moe|mixer)\.((primary_)?(gate|router)\b"
        r"|e_score_correction_bias)|\.ffn_gate_inp\.|\.exp_probs_b\.|\.ffn_gate_tid2eid\."
        r"|\.layers\.0\.router\.",
    ),
    (
        "other",
        r"(^|\.)hc_|_hc\.|hyper_connection|\.ple\.|(^|\.)engram\.|latent_proj"
        r"|routed_expert_(up|down)_proj|rotary_emb"
        r"|\.inv_freq$|rope_freqs|rope_factors",
    ),
    ("norm", r"norm(_[fk0]|\d)?\.(weight|bias)$|layernorm_\d\.weight$|(^|\.)ln_\w+\."),
    ("embedding", r"(^|\.)(embed_tokens|embed|embeddings|wte|tok_embeddings|token_embd)\.weight$"),
    ("lm_head", r"(^|\.)(lm_head|head|output)\.(weight|bias|\w*scale\w*)$"),
    (
        "attention",
        r"\.(self_attn|self_attention|linear_attn|attention|attn|mixer)\.|\.(attn|ssm|indexer)_",
    ),
    ("dense_mlp", r"\.(mlp|feed_forward|ffn)\.|\.ffn_(gate|up|down)\."),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _RULES)


def layer_of(name: str) -> int | None:
    found = LAYER.search(name)
    return int(found[1]) if found else None


def classify(name: str, layers: int) -> TensorClass | None:
    """None for a name that no rule knows. Layers from `layers` on belong to a draft model."""
    kind, layer = role(name).kind, layer_of(name)
    beyond = layer is not None and layer >= layers
    return "draft" if beyond and kind != "vision" else kind


def role(name: str) -> Role:
    """Tensors that differ in layer and expert only have the same role."""
    return _role(NUMBER.sub("0", name))


@lru_cache(maxsize=8192)
def _role(template: str) -> Role:
    kind = next((kind for kind, pattern in _PATTERNS if pattern.search(template)), None)
    last = template.rsplit(".", 1)[-1]
    scale = kind != "other" and SCALES.search(last) is not None
    if kind != "routed_experts":
        return Role(kind, scale=scale)
    single = EXPERT.search(template)
    rest = template[single.end() :] if single else re.split(r"experts\.", template)[-1]
    return Role(kind, rest.split(".")[0], single is not None, scale)
