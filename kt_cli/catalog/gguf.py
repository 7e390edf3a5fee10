"""GGUF files → `Model`: metadata and tensor table of one file or of a numbered series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kt_moe.files import GgufTensor

from kt_cli.catalog.config import HEADS, Config
from kt_cli.catalog.gguf_windows import gguf_windows
from kt_cli.catalog.naming import classify, layer_of
from kt_cli.core.model import Attention, Experts, Model, Quantization, TensorClass
from kt_cli.documents import Record, Source, shown
from kt_cli.errors import NotFoundError
from kt_cli.weights.gguf import GgufFile

FIX = "take another file of the model"
_STACK = re.compile(r"\.ffn_(gate|up|down|gate_up)_exps\.weight\Z")
_ALONE = re.compile(r"\.ffn_up\.\d+\.weight\Z")


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
        vocab=config.number("vocab_size", default=_vocabulary(parts)),
        context=config.number("context_length"),
        dtype="gguf",
        attention=_attention(parts),
        bytes=dict(tally),
        experts=experts,
        quantization=_quantization(parts.tensors),
        parameters=dict(parameters),
        path=str(files[0]),
        intermediate=_dense_width(parts),
        notes=gguf_windows(config).notes,
    )


def _open(files: Sequence[Path]) -> Parts:
    opened = [GgufFile.open(path) for path in files]
    head = Record(Source(str(files[0]), FIX), opened[0].metadata)
    _require_model(head, len(files))
    kind = head.text("general.architecture")
    prefix = f"{kind}."
    values = {k[len(prefix) :]: v for k, v in head.values.items() if k.startswith(prefix)}
    tensors = {tensor.name: tensor for file in opened for tensor in file.tensors.values()}
    if len(tensors) != sum(len(file.tensors) for file in opened):
        raise head.source.wrong("two files of its series hold the same tensors")
    config = Config(str(files[0]), {**values, "model_type": kind}, head.values, FIX)
    tokens = head.sequence("tokenizer.ggml.tokens")
    return Parts(files[0], config, tuple(tensors.values()), len(tokens))


def _require_model(head: Record, files: int) -> None:
    kind = head.text("general.type", default="model")
    tower = "mmproj" in kind or head.text("general.architecture") == "clip"
    if tower or kind != "model":
        what = "a vision tower" if tower else f"of the type {shown(kind)}"
        why, fix = f"it is {what}, not a model", "give the file of the model itself"
        raise NotFoundError(f"{head.source.name} is no model", why, fix)
    parts = head.integer("split.count", high=1 << 16, default=0)
    if parts and parts != files:
        raise NotFoundError(
            f"{head.source.name} is not complete",
            f"it says that it is one of {parts} files, and {files} of its series are there",
            "download the model again, and keep the names of its files",
        )


def _experts(parts: Parts) -> Experts | None:
    """Geometry from the tensors themselves: up projections are [experts, width, hidden]."""
    config = parts.config
    stacks = [t for t in parts.tensors if _STACK.search(t.name)]
    count = config.number("expert_count", default=0)
    if not stacks and count:
        old = any(_ALONE.search(name) for name in parts.names)
        why = (
            "every expert is a tensor of its own, as in files of 2023" if old else "none hold them"
        )
        raise config.wrong(f"it has {count} experts, and no `ffn_up_exps` tensors: {why}")
    if not stacks:
        return None
    layers = {layer_of(t.name) for t in stacks if "up_exps" in t.name}
    hidden, width = config.number("embedding_length"), _expert_width(stacks)
    for tensor in stacks:
        _require_shape(parts, tensor, (count, width, hidden))
    top_k = config.number("expert_used_count")
    if top_k > count:
        raise config.wrong(f"`expert_used_count` is {top_k}, of {count} experts")
    own = tuple(i for i in range(config.number("block_count")) if i in layers)
    if not own:
        raise config.wrong(f"none of its {config.number('block_count')} layers has its experts")
    return Experts(
        count=count,
        top_k=top_k,
        hidden=hidden,
        intermediate=width,
        layers=own,
        shared=config.number("expert_shared_count", default=_has(parts, "ffn_up_shexp")),
        activation="swiglu_oai" if config.model_type == "gpt-oss" else "silu",
    )


def _expert_width(stacks: Sequence[GgufTensor]) -> int:
    first = next((t for t in stacks if "up_exps" in t.name), stacks[0])
    rows = int(first.shape[-2]) if len(first.shape) > 1 else 0
    return rows // 2 if "gate_up" in first.name else rows


def _require_shape(parts: Parts, tensor: GgufTensor, sizes: tuple[int, int, int]) -> None:
    """One expert alone is a matrix: the format drops axes of length one at the end."""
    count, width, hidden = sizes
    matrix = (hidden, width) if "down" in tensor.name else (width, hidden)
    if "gate_up" in tensor.name:
        matrix = (2 * width, hidden)
    if tensor.shape == (count, *matrix) or (count == 1 and tensor.shape == matrix):
        return
    raise parts.config.wrong(
        f"{tensor.name} is {list(tensor.shape)}; {[count, *matrix]} would be {count} experts as "
        "its metadata and its other layers have them"
    )


def _has(parts: Parts, piece: str) -> int:
    return int(any(piece in name for name in parts.names))


def _vocabulary(parts: Parts) -> int:
    rows = [t.shape[0] for t in parts.tensors if t.name == "token_embd.weight"]
    found = [count for count in (parts.tokens, *rows) if count]
    if not found:
        raise parts.config.record.wrong("vocab_size", None, "the number of tokens")
    return int(found[0])


def _dense_width(parts: Parts) -> int:
    widths = [t.shape[0] for t in parts.tensors if t.name.endswith(".ffn_up.weight")]
    return widths[0] if widths else 0


def _attention(parts: Parts) -> Attention:
    config, layers = parts.config, parts.config.number("block_count")
    heads = max(_per_layer(config, "attention.head_count"))
    if config.has("attention.kv_lora_rank"):
        return _latent(config, layers, heads)
    kv_heads = _per_layer(config, "attention.head_count_kv")
    linear = len({layer_of(n) for n in parts.names if ".ssm_" in n} & set(range(layers)))
    dim = config.number("attention.key_length", default=config.number("embedding_length") // heads)
    windows = gguf_windows(config)
    windowed = sum(windows.layers)
    empty = max(linear, kv_heads.count(0))
    return Attention(
        kind="gqa",
        heads=heads,
        kv_heads=max(kv_heads),
        head_dim=dim,
        v_head_dim=config.number("attention.value_length", default=dim),
        full_layers=max(0, layers - empty - windowed),
        window_layers=windowed,
        window=windows.size if windowed else 0,
        linear_layers=linear,
        linear_state_bytes=_state_bytes(config) if linear else 0,
    )


def _per_layer(config: Config, key: str) -> Sequence[int]:
    """One number, or one for each layer, with 0 where a layer keeps no keys and values."""
    if not isinstance(config.values.get(key), list):
        return (config.number(key),)
    found = config.record.integers(key, high=HEADS[1], least=config.number("block_count"))
    if not max(found):
        raise config.record.wrong(key, found, "a number of heads above 0")
    return found


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
        whole_parameters=layers
        * config.number("embedding_length")
        * _down_rank(config, rank, rope),
    )


def _down_rank(config: Config, rank: int, rope: int) -> int:
    return config.number("attention.q_lora_rank", default=0) + rank + rope


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
