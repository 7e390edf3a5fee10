"""Reads `config.json`, which many programs write differently. Errors name the wrong key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kt_cli.documents import Record, Source
from kt_cli.errors import KtError

TEXT_KEYS = ("text_config", "llm_config", "language_config")
FIX = "check that this is the configuration of the model"
LAYERS, SIZE, HEADS, EXPERTS, PERIOD = (
    (1, 10_000),
    (1, 1 << 24),
    (1, 1 << 16),
    (0, 1 << 16),
    (1, 10_000),
)
RANGES: Mapping[str, tuple[int, int]] = {
    "num_hidden_layers": LAYERS,
    "hidden_size": SIZE,
    "vocab_size": (1, 1 << 28),
    "max_position_embeddings": (1, 1 << 40),
    "max_sequence_length": (1, 1 << 40),
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": HEADS,
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "moe_num_primary_experts": EXPERTS,
    "num_experts_per_tok": HEADS,
    "moe_num_active_primary_experts": HEADS,
    "num_experts_per_token": HEADS,
    "moe_intermediate_size": SIZE,
    "num_nextn_predict_layers": (0, 100),
    "decoder_sparse_step": PERIOD,
    "full_attention_interval": PERIOD,
    "no_rope_layer_interval": PERIOD,
    "o_groups": HEADS,
    "ngram_size": (2, 64),
    "heads_per_ngram": HEADS,
    "engram_max_ngram_size": (2, 64),
    "engram_n_heads": HEADS,
    "index_n_heads": HEADS,
    "indexer_compress_ratio": HEADS,
    "block_count": LAYERS,
    "embedding_length": SIZE,
    "context_length": (1, 1 << 40),
    "attention.head_count": HEADS,
    "attention.head_count_kv": HEADS,
    "attention.key_length": HEADS,
    "expert_count": EXPERTS,
    "expert_used_count": HEADS,
}
"""Far above any model, and below what would take minutes to plan."""
ANY = (0, 1 << 32)


@dataclass(frozen=True, slots=True)
class Config:
    """The language model's part of a configuration; `outer` is all of it."""

    where: str
    values: Mapping[str, Any]
    outer: Mapping[str, Any]
    fix: str = FIX

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Config:
        whole = Record(Source(where, FIX), values)
        return cls(where, whole.part(*TEXT_KEYS).values or values, values)

    @property
    def record(self) -> Record:
        return Record(self._source, self.values)

    @property
    def model_type(self) -> str:
        return self.record.text("model_type", default="") or self.whole.text(
            "model_type", default=""
        )

    @property
    def architecture(self) -> str:
        names = self.whole.texts("architectures") or self.record.texts("architectures")
        return names[0] if names else ""

    def has(self, *keys: str) -> bool:
        return self.record.has(*keys)

    def number(self, *keys: str, default: int | None = None) -> int:
        """The first of `keys` that is there. Raises KtError that names the key."""
        key = next((key for key in keys if self.values.get(key) is not None), keys[0])
        low, high = RANGES.get(key, ANY)
        return self.record.integer(key, low=low, high=high, default=default)

    def flag(self, key: str, default: bool = False) -> bool:
        """A key that `text_config` lacks may stand beside it."""
        own = self.record if key in self.values else self.whole
        return own.flag(key, default=default)

    def text(self, *keys: str, default: str = "") -> str:
        return self.record.text(*keys, default=default) or default

    def items(self, key: str, length: int = 0) -> Sequence[Any]:
        """Empty when it is not there; at least `length` items when it is."""
        return self.record.sequence(key) and self.record.sequence(key, least=length)

    def part(self, key: str) -> Mapping[str, Any]:
        """An object, from here or from the whole configuration; empty when it is not there."""
        return self.section(key).values

    def section(self, key: str) -> Record:
        """The same, to be read by its keys."""
        own = self.record.part(key)
        return own if own.values else self.whole.part(key)

    def wrong(self, why: str) -> KtError:
        return self._source.wrong(why)

    @property
    def whole(self) -> Record:
        return Record(self._source, self.outer)

    @property
    def _source(self) -> Source:
        return Source(self.where, self.fix)
