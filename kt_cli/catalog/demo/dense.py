"""The dense Llama model in a GGUF, layer by layer in float32, with Hugging Face's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kt_cli.errors import KtError
from kt_cli.weights.floats import Floats
from kt_cli.weights.gguf import GgufFile

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
# Hugging Face's name within a layer: llama.cpp's.
LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@dataclass(frozen=True, slots=True)
class Dense:
    gguf: GgufFile
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    context: int
    eps: float
    theta: float

    @classmethod
    def of(cls, gguf: GgufFile) -> Dense:
        data = gguf.metadata
        if data.get("general.architecture") != "llama" or "output.weight" in gguf.tensors:
            raise KtError(f"{gguf.reader.path} is no Llama model with tied embeddings")
        attention = "llama.attention"
        return cls(
            gguf=gguf,
            hidden=data["llama.embedding_length"],
            layers=data["llama.block_count"],
            heads=data[f"{attention}.head_count"],
            kv_heads=data[f"{attention}.head_count_kv"],
            intermediate=data["llama.feed_forward_length"],
            vocab=data["llama.vocab_size"],
            context=data["llama.context_length"],
            # The file holds float32: its shortest decimal is the number that was meant.
            eps=float(str(np.float32(data[f"{attention}.layer_norm_rms_epsilon"]))),
            theta=float(data["llama.rope.freq_base"]),
        )

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def outer(self) -> dict[str, Floats]:
        return {
            EMBEDDING: self.gguf.get("token_embd.weight"),
            FINAL_NORM: self.gguf.get("output_norm.weight"),
        }

    def layer(self, index: int) -> dict[str, Floats]:
        """Weights of one layer by their short names, such as `mlp.up_proj`."""
        found = {
            ours: self.gguf.get(f"blk.{index}.{theirs}.weight")
            for ours, theirs in LAYER_NAMES.items()
        }
        for name, heads in (("self_attn.q_proj", self.heads), ("self_attn.k_proj", self.kv_heads)):
            found[name] = _halves(found[name], heads)
        return found


def _halves(weight: Floats, heads: int) -> Floats:
    """llama.cpp stores rotary pairs side by side; Hugging Face keeps them half a head apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)
