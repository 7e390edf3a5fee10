"""The ledger of the embedded engine: all in RAM, or all but the experts on one GPU."""

from __future__ import annotations

from dataclasses import dataclass

from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.kv import KvCost, kv_cost
from kt_cli.core.ledger import computed_items, expert_item, gpu_pool, parameters_of, ram_pool
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model, TensorClass
from kt_cli.core.plan import Item, Pool
from kt_cli.core.units import DTYPE_BYTES
from kt_cli.core.wishes import Wishes


@dataclass(frozen=True, slots=True)
class Choice:
    """The values the ledger depends on."""

    dtype: str
    kv_dtype: str
    method: str
    backend: str
    device: str
    context: int
    requests: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Case:
    """What a plan is made from."""

    machine: Machine
    model: Model
    wishes: Wishes
    facts: EmbeddedFacts

    def gpu(self, device: str) -> Gpu | None:
        """The GPU that `cuda` or `cuda:1` means; None for the CPU or a GPU that is not there."""
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return None
        wanted = int(index) if index.isdigit() else 0
        return next((g for g in self.machine.gpus if g.index == wanted), None)


def pools_of(case: Case, choice: Choice) -> tuple[Pool, ...]:
    facts, model = case.facts, case.model
    base = Item("Python, torch", facts.base_bytes, "resident before any weight")
    body = [*computed_items(model, _width(choice.dtype), choice.dtype), *_cache(case, choice)]
    experts = expert_item(model, _expert_width(facts, choice), _expert_form(choice))
    held = [experts] if experts else []
    gpu = case.gpu(choice.device)
    if gpu is None:
        return (ram_pool(case.machine, [base, *held, *body], facts.margin_bytes),)
    context = Item("CUDA context", facts.gpu_context_bytes, "driver and cuBLAS workspaces")
    return (
        gpu_pool(gpu, [context, *body], facts.margin_bytes),
        ram_pool(case.machine, [base, *held], facts.margin_bytes),
    )


def _cache(case: Case, choice: Choice) -> list[Item]:
    cost = kv_of(case, choice)
    size = cost.total(choice.kv_tokens, choice.requests)
    kv = Item("KV cache", size, f"{choice.kv_tokens} tokens × {cost.formula}")
    return [kv, _workspace(case, choice)]


def kv_of(case: Case, choice: Choice) -> KvCost:
    width = _width(choice.kv_dtype)
    return kv_cost(case.model.attention, width, latent=case.facts.latent_kv)


def _workspace(case: Case, choice: Choice) -> Item:
    """Activations of one chunk in fp32 and the logits of a batch."""
    model, attention = case.model, case.model.attention
    experts = model.experts
    inner = max(model.intermediate, experts.top_k * experts.intermediate if experts else 0)
    row = 8 * model.hidden + 4 * attention.heads * attention.head_dim + 3 * inner
    size = case.facts.chunk * row * 4 + choice.requests * model.vocab * 8
    formula = f"{case.facts.chunk} tokens × {row} values × 4 B + logits"
    return Item("workspace", size, formula)


def _width(dtype: str) -> float:
    return DTYPE_BYTES[dtype]


def _expert_width(facts: EmbeddedFacts, choice: Choice) -> float:
    """torch's operator holds experts in the compute type, `kt_moe` in their own format."""
    if choice.backend == "torch":
        return _width(choice.dtype)
    return facts.methods.get(choice.method, DTYPE_BYTES["bf16"])


def _expert_form(choice: Choice) -> str:
    return choice.dtype if choice.backend == "torch" else choice.method


def active_bytes(model: Model, choice: Choice, facts: EmbeddedFacts) -> float:
    """Bytes of weights one decoded token reads: the head but not the embedding, top-k experts."""
    tied = not parameters_of(model, ("lm_head",))
    head: TensorClass = "embedding" if tied else "lm_head"
    read: tuple[TensorClass, ...] = (
        *("attention", "dense_mlp", "shared_experts", "router", "norm", "other"),
        head,
    )
    routed = parameters_of(model, ("routed_experts",))
    share = model.experts.top_k / model.experts.count if model.experts else 0.0
    dense = parameters_of(model, read) * _width(choice.dtype)
    return dense + routed * share * _expert_width(facts, choice)
