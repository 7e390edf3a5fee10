"""GGUF files → `Model`: metadata and tensor table of one file or of a numbered series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_moe.files import GgufTensor

from kt_cli.catalog.config import Config
from kt_cli.catalog.naming import classify, layer_of
from kt_cli.core.model import Attention, Experts, Model, Quantization, TensorClass
from kt_cli.errors import KtError
from kt_cli.weights.gguf import GgufFile


@dataclass(frozen=True, slots=True)
class Parts:
    """What all files of a series hold together."""

    path: Path
    config: Config
    tensors: tuple[GgufTensor, ...]
    tokens: int

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in self.tensors)


def read_gguf(files: Sequence[Path]) -> Model:
    """Raises KtError for metadata that lacks what a plan needs."""
    parts = _open(files)
    config, experts = parts.config, _experts(parts)
    layers = config.number("block_count")
    tally: Counter[TensorClass] = Counter()
    parameters: Counter[TensorClass] = Counter()
    for tensor in parts.tensors:
        kind = classify(tensor.name, layers) or "other"
        tally[kind] += tensor.nbytes
        parameters[kind] += tensor.parameters
    return Model(
        name=files[0].stem,
        architecture=config.model_type,
        layers=layers,
        hidden=config.number("embedding_length"),
        vocab=config.number("vocab_size", default=parts.tokens),
        context=config.number("context_length"),
        dtype="gguf",
        attention=_attention(parts),
        bytes=dict(tally),
        experts=experts,
        quantization=_quantization(parts.tensors),
        parameters=dict(parameters),
        path=str(files[0]),
        intermediate=_dense_width(parts),
    )


def _open(files: Sequence[Path]) -> Parts:
    opened = [GgufFile.open(path) for path in files]
    metadata, where = opened[0].metadata, str(files[0])
    kind = metadata.get("general.architecture")
    if not kind:
        raise KtError(f"cannot read {where}", "its metadata has no `general.architecture`")
    prefix = f"{kind}."
    values = {k[len(prefix) :]: v for k, v in metadata.items() if k.startswith(prefix)}
    tensors = tuple(tensor for file in opened for tensor in file.tensors.values())
    tokens = metadata.get("tokenizer.ggml.tokens") or ()
    config = Config(where, {**values, "model_type": kind}, metadata)
    return Parts(files[0], config, tensors, len(tokens))


def _experts(parts: Parts) -> Experts | None:
    """Geometry from the tensors themselves: up projections are [experts, width, hidden]."""
    config = parts.config
    ups = {layer_of(t.name): t for t in parts.tensors if t.name.endswith("up_exps.weight")}
    if not ups:
        if config.number("expert_count", default=0):
            raise KtError(f"cannot read {parts.path}", "no `ffn_up_exps` tensors hold its experts")
        return None
    first = next(iter(ups.values()))
    count, rows, hidden = first.shape
    width = rows // 2 if "gate_up" in first.name else rows
    if (count, hidden) != (config.number("expert_count"), config.number("embedding_length")):
        raise KtError(f"cannot read {parts.path}", f"{first.name} is {list(first.shape)}")
    return Experts(
        count=count,
        top_k=config.number("expert_used_count"),
        hidden=hidden,
        intermediate=width,
        layers=tuple(sorted(layer for layer in ups if layer is not None)),
        shared=config.number("expert_shared_count", default=_has(parts, "ffn_up_shexp")),
        activation="swiglu_oai" if config.model_type == "gpt-oss" else "silu",
    )


def _has(parts: Parts, piece: str) -> int:
    return int(any(piece in name for name in parts.names))


def _dense_width(parts: Parts) -> int:
    widths = [t.shape[0] for t in parts.tensors if t.name.endswith(".ffn_up.weight")]
    return widths[0] if widths else 0


def _attention(parts: Parts) -> Attention:
    config, layers = parts.config, parts.config.number("block_count")
    heads = _largest(config, "attention.head_count")
    linear = len({layer_of(n) for n in parts.names if ".ssm_" in n})
    if config.has("attention.kv_lora_rank"):
        return _latent(config, layers, heads)
    dim = config.number("attention.key_length", default=config.number("embedding_length") // heads)
    window = config.number("attention.sliding_window", default=0)
    windowed = _window_layers(config, layers) if window else 0
    return Attention(
        kind="gqa",
        heads=heads,
        kv_heads=_largest(config, "attention.head_count_kv"),
        head_dim=dim,
        v_head_dim=config.number("attention.value_length", default=dim),
        full_layers=layers - linear - windowed,
        window_layers=windowed,
        window=window,
        linear_layers=linear,
        linear_state_bytes=_state_bytes(config) if linear else 0,
    )


def _largest(config: Config, key: str) -> int:
    """Per-layer lists have zeros where a layer has no heads of its own."""
    found = config.values.get(key)
    return max(found) if isinstance(found, list) and found else config.number(key)


def _window_layers(config: Config, layers: int) -> int:
    pattern = config.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return sum(map(bool, pattern))
    if config.model_type == "gpt-oss":
        return -(-layers // 2)
    raise KtError(f"cannot read {config.where}", "it does not say which layers have a window")


def _latent(config: Config, layers: int, heads: int) -> Attention:
    rank, rope = config.number("attention.kv_lora_rank"), config.number("rope.dimension_count")
    key = config.number("attention.key_length_mla", "attention.key_length")
    return Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=key,
        v_head_dim=config.number("attention.value_length_mla", "attention.value_length"),
        full_layers=layers,
        kv_lora_rank=rank,
        rope_dim=rope,
        index_head_dim=config.number("attention.indexer.key_length", default=0),
    )


def _state_bytes(config: Config) -> int:
    state, inner = config.number("ssm.state_size"), config.number("ssm.inner_size")
    channels = 2 * state * config.number("ssm.group_count") + inner
    return 4 * inner * state + 2 * channels * (config.number("ssm.conv_kernel") - 1)


def _quantization(tensors: Sequence[GgufTensor]) -> Quantization:
    """Of the experts, or of all matrices where there are none; bits are the mean, rounded."""
    matrices = [t for t in tensors if len(t.shape) > 1]
    matrices = [t for t in matrices if "_exps." in t.name] or matrices
    kinds = Counter(t.type for t in matrices)
    nbytes, weights = sum(t.nbytes for t in matrices), sum(t.parameters for t in matrices)
    names = ", ".join(kind for kind, _ in kinds.most_common())
    return Quantization("gguf", round(8 * nbytes / max(1, weights)), 0, names)
