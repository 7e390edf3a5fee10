"""The ledger of the embedded engine: all in RAM, or all but the experts on one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kt_cli.core.facts import EmbeddedFacts
from kt_cli.core.kv import KvCost, kv_cost
from kt_cli.core.ledger import computed_items, expert_item, gpu_pool, parameters_of, ram_pool
from kt_cli.core.machine import Gpu, Machine
from kt_cli.core.model import Model, TensorClass
from kt_cli.core.packing import packed_before
from kt_cli.core.plan import Item, Kind, Pool
from kt_cli.core.units import DTYPE_BYTES, gb
from kt_cli.core.wishes import Wishes

BLOCK = 16
"""Rows of an expert that our kernels multiply at once; its last block is half full on average."""


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

    def threads(self) -> int:
        return int(self.wishes.get("cpu_threads") or self.machine.threads)

    def gpu(self, device: str) -> Gpu | None:
        """The GPU that `cuda` or `cuda:1` means; None for the CPU or a GPU that is not there."""
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return None
        wanted = int(index) if index.isdigit() else 0
        return next((g for g in self.machine.gpus if g.index == wanted), None)


def pools_of(case: Case, choice: Choice) -> tuple[Pool, ...]:
    facts, model = case.facts, case.model
    body = [*computed_items(model, _width(choice.dtype), choice.dtype), *_cache(case, choice)]
    host = [*_programs(case), *_tables(case, choice), *_experts(case, choice)]
    gpu = case.gpu(choice.device)
    if gpu is None:
        host = [*host, *body]
        return (ram_pool(case.machine, [*host, _loading(case, choice, host)], facts.margin_bytes),)
    context = Item("CUDA context", facts.gpu_context_bytes, "driver, kernels, cuBLAS workspace")
    why = "its driver, and the code of kernels before it goes to the GPU"
    host = [*host, Item("CUDA on the host", facts.gpu_host_bytes, why, Kind.HOST_CUDA)]
    return (
        gpu_pool(gpu, [context, *body], facts.margin_bytes),
        ram_pool(case.machine, [*host, _loading(case, choice, host)], facts.margin_bytes),
    )


def _programs(case: Case) -> list[Item]:
    """What the engine's process takes before any weight."""
    facts, model = case.facts, case.model
    torch = case.machine.engine("torch")
    base, files, build = facts.base_bytes, facts.libraries_bytes, "torch for the CPU"
    if torch is None or "+cpu" not in torch.version:
        base, files = base + facts.cuda_build_bytes, files + facts.cuda_libraries_bytes
        build = "torch built with CUDA"
    words, threads = f"{model.vocab} words × {facts.token_bytes} B", case.threads()
    return [
        Item("Python, torch", base, f"memory of its own before any weight; {build}"),
        Item("libraries", files, "program files as far as they are read", Kind.LIBRARIES),
        Item("tokenizer", model.vocab * facts.token_bytes, words),
        Item("threads", threads * facts.thread_bytes, f"{threads}, what attention keeps for each"),
    ]


def _tables(case: Case, choice: Choice) -> list[Item]:
    count, width = parameters_of(case.model, ("lookup",)), _width(choice.dtype)
    how = f"{count} × {width:g} B: this engine reads them whole"
    return [Item("look-up tables", int(count * width), how)] if count else []


def _experts(case: Case, choice: Choice) -> list[Item]:
    model, experts = case.model, case.model.experts
    mapped = ", mapped from disk" if packed_before(case, choice) else ""
    held = expert_item(model, _expert_width(case.facts, choice), _expert_form(choice) + mapped)
    if held is None or experts is None or choice.backend == "torch":
        return [held] if held else []
    pairs = case.facts.chunk * experts.top_k
    rows = pairs + BLOCK // 2 * experts.count
    size = rows * 2 * (2 * experts.hidden + experts.intermediate)
    formula = f"{pairs} tokens × experts in blocks of {BLOCK}: {rows} rows in, between and out"
    return [held, Item("expert buffers", size, formula, Kind.BUFFERS)]


def _loading(case: Case, choice: Choice, host: Sequence[Item]) -> Item:
    """torch puts a layer's experts together before it keeps them; the cache is empty until then."""
    if choice.backend != "torch":
        return Item("loading", 0, "experts are packed straight from their files", Kind.LOADING)
    experts = case.model.experts
    layers = len(experts.layers) if experts else 0
    source = case.model.bytes.get("routed_experts", 0) // max(1, layers)
    later = sum(i.bytes for i in host if i.kind in (Kind.CACHE, Kind.WORKSPACE, Kind.BUFFERS))
    formula = f"experts of a layer {gb(source)} less what is not there yet {gb(later)}"
    return Item("loading", max(0, source - later), formula, Kind.LOADING)


def _cache(case: Case, choice: Choice) -> list[Item]:
    cost = kv_of(case, choice)
    size = cost.total(choice.kv_tokens, choice.requests)
    kv = Item("KV cache", size, f"{choice.kv_tokens} tokens × {cost.formula}", Kind.CACHE)
    return [kv, _workspace(case, choice)]


def kv_of(case: Case, choice: Choice) -> KvCost:
    width = _width(choice.kv_dtype)
    return kv_cost(case.model.attention, width, latent=_latent(case))


def _latent(case: Case) -> bool:
    """The newest transformers is assumed where none is known."""
    engine = case.machine.engine("transformers")
    return engine is None or _release(engine.version) >= _release(case.facts.latent_kv)


def _release(version: str) -> tuple[int, ...]:
    """5.23.0.dev0 → (5, 23)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _workspace(case: Case, choice: Choice) -> Item:
    """Activations of one chunk, what attention makes for all of a context, logits of a batch."""
    model, attention = case.model, case.model.attention
    experts, chunk = model.experts, case.facts.chunk
    inner, width = model.intermediate, _width(choice.dtype)
    if case.gpu(choice.device) is None:
        inner = max(inner, experts.top_k * experts.intermediate if experts else 0)
        width = 4.0
    row = 8 * model.hidden + 4 * attention.heads * attention.head_dim + 3 * inner
    seen = context_work(case, choice)
    size = int(chunk * row * width) + choice.context * seen + choice.requests * model.vocab * 8
    formula = f"{chunk} tokens × {row} values × {width:g} B + {choice.context} tokens × {seen} B"
    return Item("workspace", size, formula + " + logits", Kind.WORKSPACE)


def context_work(case: Case, choice: Choice) -> int:
    """Bytes of workspace a token of context costs while a chunk is computed.

    The mask in two types on a GPU. MLA is computed with full heads: a latent cache is expanded,
    and on the CPU, where torch's fast attention wants keys as wide as values, scores are kept.
    """
    a, chunk, on_gpu = case.model.attention, case.facts.chunk, case.gpu(choice.device) is not None
    seen = 3 * chunk if on_gpu else 0
    if a.kind == "mla":
        expanded = 2 * a.head_dim - a.rope_dim + a.v_head_dim if _latent(case) else 0
        scores = 0 if on_gpu else 4 * chunk
        seen += a.heads * (int(expanded * _width(choice.dtype)) + scores)
    return seen


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
