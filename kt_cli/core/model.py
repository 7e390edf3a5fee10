"""`Model`: what a checkpoint holds, in exact bytes per class of tensor, as read by `catalog`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

TensorClass = Literal[
    "attention",
    "dense_mlp",
    "shared_experts",
    "routed_experts",
    "router",
    "embedding",
    "lm_head",
    "norm",
    "vision",
    "draft",
    "lookup",
    "other",
]
AttentionKind = Literal["gqa", "mla"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Geometry of the attention layers; what decides the KV cache.

    Layers are counted, not named: `full_layers` keep every token, `window_layers` keep the last
    `window` tokens, `linear_layers` keep a state of `linear_state_bytes` per request.
    """

    kind: AttentionKind
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    full_layers: int
    window_layers: int = 0
    window: int = 0
    linear_layers: int = 0
    linear_state_bytes: int = 0
    kv_lora_rank: int = 0
    rope_dim: int = 0
    """MLA: width of the shared rotary key stored beside the latent."""
    index_head_dim: int = 0
    """Sparse attention: width of the index key stored per token and layer."""
    index_every: int = 1
    """Tokens that share one index key."""
    global_kv_heads: int = 0
    global_head_dim: int = 0
    """Where the layers that keep every token have another shape than those with a window."""
    whole_parameters: int = 0
    """Weights of all layers that every GPU keeps whole: down-projections, compressors, indexers."""
    compressed_layers: tuple[tuple[int, int], ...] = ()
    """Layers that keep one entry per so many tokens: pairs of (layers, tokens per entry)."""


@dataclass(frozen=True, slots=True)
class Experts:
    """Routed experts; `layers` are the indices of the layers that have them.

    `hidden` is what experts read and write: less than the model's where they work on a latent.
    """

    count: int
    top_k: int
    hidden: int
    intermediate: int
    layers: tuple[int, ...]
    shared: int = 0
    activation: str = "silu"
    gated: bool = True

    @property
    def parameters_each(self) -> int:
        """Weights of one expert: gate, up and down, or up and down alone."""
        return (3 if self.gated else 2) * self.hidden * self.intermediate


@dataclass(frozen=True, slots=True)
class Quantization:
    method: str
    """bf16 when the checkpoint is not quantised; else fp8, fp8_channel, int4, gptq, mxfp4, …"""
    bits: int = 16
    group: int = 0
    """Weights that share a scale, 0 or less for one scale a row."""
    details: str = ""
    act_order: bool = False
    """GPTQ: columns are in the order of their activations, so every column names its group."""
    zero_points: bool = False
    """Stored beside the scales, one for each."""


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    architecture: str
    layers: int
    hidden: int
    vocab: int
    context: int
    dtype: str
    attention: Attention
    bytes: Mapping[TensorClass, int]
    experts: Experts | None = None
    quantization: Quantization = field(default_factory=lambda: Quantization("bf16"))
    parameters: Mapping[TensorClass, int] = field(default_factory=dict)
    path: str = ""
    repo: str = ""
    exact: bool = True
    """True when bytes come from tensor headers, False when computed from the configuration."""
    intermediate: int = 0
    """Width of the dense MLP, 0 where there is none."""
    remote_code: bool = False
    lookup_rows: int = 0
    lookup_row_bytes: int = 0
    """A token reads so many rows of the look-up tables (class `lookup`), each of so many bytes."""
    prefill_layers: int = 0
    """Layers that a prompt passes, 0 for all: a causal encoder is the first part of the model."""
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())

    @property
    def total_parameters(self) -> int:
        return sum(self.parameters.values())

    @property
    def active_parameters(self) -> int:
        """Parameters one token of text touches: of the routed experts only those it is sent to.

        Draft layers, towers for other senses and look-up tables, of which it reads a few rows, are
        not on its way.
        """
        held = self.parameters.get
        aside = held("draft", 0) + held("vision", 0) + held("lookup", 0)
        routed = held("routed_experts", 0)
        used = routed * self.experts.top_k // self.experts.count if self.experts else 0
        return self.total_parameters - aside - routed + used
