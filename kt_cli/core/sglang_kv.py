"""What SGLang's caches take on each GPU for the tokens that a plan promises.

Formulas are those of sglang-kt 0.7.2, `model_executor/model_runner_kv_cache_mixin.py` and
`memory_profiler.py`: its pools are not always as large as the attention needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from kt_cli.core.kv import INDEX_SCALE_GROUP
from kt_cli.core.model import Attention
from kt_cli.core.plan import Item, Kind
from kt_cli.core.sglang_choice import SglangCase, SglangChoice
from kt_cli.core.units import DTYPE_BYTES

RINGS = {4: 8, 128: 128}
"""DeepSeek-V4: tokens per compressed entry → states of the compressor for each page of a window."""
LEAST_WINDOW = 0.1
"""DeepSeek-V4: least share of tokens that windows keep; two chunks in flight must fit too."""


@dataclass(frozen=True, slots=True)
class Pool:
    """`token` bytes for each token promised; SGLang is told `asked` tokens for each of them."""

    token: float
    formula: str
    asked: float = 1.0


def kv_items(case: SglangCase, choice: SglangChoice) -> tuple[Item, ...]:
    pool = pool_of(case, choice)
    tokens = choice.kv_tokens
    kept = Item(
        "KV cache", ceil(tokens * pool.token), f"{tokens} tokens × {pool.formula}", Kind.CACHE
    )
    return (kept, *_states(case, choice))


def _states(case: SglangCase, choice: SglangChoice) -> tuple[Item, ...]:
    """Of linear attention: one state more than there are, which padding is written to."""
    a, slots = case.model.attention, state_slots(case, choice)
    each = -(-a.linear_layers * a.linear_state_bytes // choice.tp)
    if not each:
        return ()
    formula = f"({slots} + 1) states × {each} B, {case.facts.state_slots} for each request"
    return (Item("states", (slots + 1) * each, formula, Kind.STATES),)


def state_slots(case: SglangCase, choice: SglangChoice) -> int:
    """For `--max-mamba-cache-size`; without it SGLang gives 47 % of the cache's room to states."""
    if not case.model.attention.linear_layers:
        return 0
    return case.facts.state_slots * choice.requests


def page(case: SglangCase) -> int:
    """Tokens that SGLang rounds its pool down to."""
    a = case.model.attention
    if a.compressed_layers:
        return 256
    return 64 if a.kind == "mla" and a.index_head_dim else 1


def asked_tokens(case: SglangCase, choice: SglangChoice) -> int:
    """What `--max-total-tokens` must say for the pool to hold the plan's tokens."""
    if case.wishes.fixed("max_total_tokens"):
        return choice.kv_tokens
    more = pool_of(case, choice).asked
    return choice.kv_tokens if more == 1 else ceil(choice.kv_tokens * more) + 1


def pool_of(case: SglangCase, choice: SglangChoice) -> Pool:
    a = case.model.attention
    if a.compressed_layers:
        return _compressed(case, choice)
    return _latent(a, choice) if a.kind == "mla" else _grouped(case, choice)


def _latent(a: Attention, choice: SglangChoice) -> Pool:
    """Sparse attention keeps fp8 latents with their scales, and the rotary key in bf16."""
    width = DTYPE_BYTES[choice.kv_dtype]
    each, index = int((a.kv_lora_rank + a.rope_dim) * width), 0
    if a.index_head_dim:
        index = -(-_index(a.index_head_dim) // a.index_every)
        if choice.kv_dtype == "fp8":
            each = a.kv_lora_rank + a.kv_lora_rank // INDEX_SCALE_GROUP * 4 + 2 * a.rope_dim
    parts = f"{each} B" + (f" and {index} B index" if index else "")
    return Pool(a.full_layers * (each + index), f"{a.full_layers} layers × ({parts})")


def _index(width: int) -> int:
    """fp8 keys with a 4-byte scale for 128 values."""
    return width + width // INDEX_SCALE_GROUP * 4


def _grouped(case: SglangCase, choice: SglangChoice) -> Pool:
    """Windows save memory only where they have a pool of their own, and little even there."""
    a, facts = case.model.attention, case.facts
    each, formula = _heads(a.kv_heads, a.head_dim, a.v_head_dim, choice)
    full, words = each, formula
    if a.global_kv_heads:
        wide = a.global_head_dim or a.head_dim
        full, words = _heads(a.global_kv_heads, wide, wide, choice)
    index = 4 * a.index_head_dim
    kept = a.full_layers * (full + index)
    parts = [f"{a.full_layers} layers × {words}" + (f" and {index} B index" if index else "")]
    every = kept + a.window_layers * (each + index)
    own = a.window_layers and case.model.architecture.startswith(facts.hybrid_window)
    share = facts.window_share if own and not case.wishes.fixed("max_total_tokens") else 1.0
    total = kept + share * a.window_layers * (each + index)
    if a.window_layers:
        parts.append(f"{share:g}·{a.window_layers} windowed layers × {formula}")
    return Pool(total, " + ".join(parts), total / every if every else 1.0)


def _heads(count: int, width: int, value: int, choice: SglangChoice) -> tuple[float, str]:
    """Bytes of a token in a layer."""
    local, each = max(1, count // choice.tp), DTYPE_BYTES[choice.kv_dtype]
    return local * (width + value) * each, f"{local} heads·({width}+{value})·{each:g} B"


def _compressed(case: SglangCase, choice: SglangChoice) -> Pool:
    """DeepSeek-V4: windows in every layer, compressed entries, index and compressor states."""
    a = case.model.attention
    low = min((g.capability or (8, 9) for g in case.cards(choice)), default=(8, 9))
    nope, rope = a.head_dim - a.rope_dim, a.rope_dim
    wide = low < (8, 9)
    kv = 2 * a.head_dim if wide else nope + 2 * rope + 8
    index = 2 * a.index_head_dim if wide else _index(a.index_head_dim)
    share = min(0.9, max(LEAST_WINDOW, 2.1 * choice.chunk / max(1, choice.kv_tokens)))
    total = share * kv * a.window_layers
    for layers, every in a.compressed_layers:
        total += layers * kv / every
        copies = 2 if every == 4 else 1
        states = share * RINGS.get(every, every) / max(1, a.window)
        total += layers * states * 2 * copies * a.head_dim * 4
        if every == 4:
            total += layers * (index / 4 + states * 2 * copies * a.index_head_dim * 4)
    entries = ", ".join(f"{layers} every {every}" for layers, every in a.compressed_layers)
    formula = f"{total:.0f} B: {share:.2g} of windows of {kv} B in {a.window_layers} layers"
    return Pool(total, f"{formula}, entries in {entries}")
