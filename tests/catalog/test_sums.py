"""Every number of the ledger against a sum of tensors that is computed without the catalogue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kt_cli import catalog
from kt_cli.core.model import Model
from kt_cli.core.plan import Plan
from kt_cli.core.plan_run import plan_run
from kt_cli.core.units import GIB
from kt_cli.engines.facts import read_facts
from kt_cli.options import RunOptions
from tests.core.test_plan_sglang import server
from tests.tiny_models import DTYPE_BYTES, write_checkpoint

H, I, E, L, VOCAB = 256, 128, 4, 2, 512  # noqa: E741
HEADS, KV, DIM = 4, 2, 64
CONFIG: Mapping[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": VOCAB,
    "hidden_size": H, "num_hidden_layers": L, "num_attention_heads": HEADS,
    "num_key_value_heads": KV, "head_dim": DIM, "intermediate_size": 512,
    "moe_intermediate_size": I, "num_experts": E, "num_experts_per_tok": 2,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
Tensors = dict[str, tuple[str, tuple[int, ...]]]
Pack = Callable[[str, int, int], Tensors]


def plain(name: str, rows: int, columns: int) -> Tensors:
    return {f"{name}.weight": ("BF16", (rows, columns))}


def fp8(name: str, rows: int, columns: int) -> Tensors:
    blocks = (-(-rows // 128), -(-columns // 128))
    return {
        f"{name}.weight": ("F8_E4M3", (rows, columns)),
        f"{name}.weight_scale_inv": ("F32", blocks),
    }


def gptq(bits: int, group: int) -> Pack:
    """As AutoGPTQ and GPTQModel write it."""

    def pack(name: str, rows: int, columns: int) -> Tensors:
        groups = columns // group if group > 0 else 1
        return {
            f"{name}.qweight": ("I32", (columns * bits // 32, rows)),
            f"{name}.qzeros": ("I32", (groups, rows * bits // 32)),
            f"{name}.scales": ("BF16", (groups, rows)),
            f"{name}.g_idx": ("I32", (columns,)),
        }

    return pack


def awq(name: str, rows: int, columns: int) -> Tensors:
    return {
        f"{name}.qweight": ("I32", (columns, rows // 8)),
        f"{name}.qzeros": ("I32", (columns // 128, rows // 8)),
        f"{name}.scales": ("BF16", (columns // 128, rows)),
    }


def packed(group: int, zeros: bool = False, order: bool = False) -> Pack:
    """`pack-quantized` of compressed-tensors."""

    def pack(name: str, rows: int, columns: int) -> Tensors:
        groups = columns // group
        found = {
            f"{name}.weight_packed": ("I32", (rows, columns // 8)),
            f"{name}.weight_scale": ("BF16", (rows, groups)),
            f"{name}.weight_shape": ("I32", (2,)),
        }
        if zeros:
            found[f"{name}.weight_zero_point"] = ("I32", (rows // 8, groups))
        if order:
            found[f"{name}.weight_g_idx"] = ("I32", (columns,))
        return found

    return pack


def gptq_config(bits: int, group: int, order: bool = False, symmetric: bool = True) -> Any:
    values = {"bits": bits, "group_size": group, "desc_act": order, "sym": symmetric}
    return {"quant_method": "gptq", **values}


def packed_config(group: int, zeros: bool = False, order: bool = False) -> Any:
    weights = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": group}
    weights |= {"symmetric": not zeros, "actorder": "group" if order else None}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
FORMATS: Mapping[str, tuple[Any, Pack, str, float]] = {
    "bf16": (None, plain, "BF16", 2.0),
    "fp8": (FP8, fp8, "FP8", 1 + 4 / 128**2),
    "gptq 4 128": (gptq_config(4, 128), gptq(4, 128), "GPTQ_INT4", 0.5 + 4 / 128),
    "gptq 4 32": (gptq_config(4, 32), gptq(4, 32), "GPTQ_INT4", 0.5 + 4 / 32),
    "gptq 4 row": (gptq_config(4, -1), gptq(4, -1), "", 0),
    "gptq 8 128": (gptq_config(8, 128), gptq(8, 128), "", 0),
    "gptq 8 row": (gptq_config(8, -1), gptq(8, -1), "", 0),
    "gptq ordered": (gptq_config(4, 128, order=True), gptq(4, 128), "", 0),
    "gptq zeros": (gptq_config(4, 128, symmetric=False), gptq(4, 128), "", 0),
    "awq": (AWQ, awq, "", 0),
    "int4 32": (packed_config(32), packed(32), "RAWINT4", 0.5 + 2 / 32),
    "int4 128": (packed_config(128), packed(128), "RAWINT4", 0.5 + 2 / 128),
    "int4 zeros": (packed_config(128, zeros=True), packed(128, zeros=True), "", 0),
    "int4 ordered": (packed_config(128, order=True), packed(128, order=True), "", 0),
}
"""Name → configuration, tensors of a matrix, kt-kernel's method and its bytes a weight."""


def tensors(pack: Pack) -> Iterator[tuple[str, Tensors]]:
    """Line of the ledger → tensors."""
    yield "embedding", {"model.embed_tokens.weight": ("BF16", (VOCAB, H))}
    yield "embedding", {"lm_head.weight": ("BF16", (VOCAB, H))}
    yield "router, norms", {"model.norm.weight": ("BF16", (H,))}
    for layer in range(L):
        head = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield "router, norms", {f"{head}.{norm}.weight": ("BF16", (H,))}
        for norm in ("q_norm", "k_norm"):
            yield "router, norms", {f"{head}.self_attn.{norm}.weight": ("BF16", (DIM,))}
        rows = {"q_proj": HEADS * DIM, "k_proj": KV * DIM, "v_proj": KV * DIM}
        for name, size in rows.items():
            yield "attention", pack(f"{head}.self_attn.{name}", size, H)
        yield "attention", pack(f"{head}.self_attn.o_proj", H, HEADS * DIM)
        yield "router, norms", {f"{head}.mlp.gate.weight": ("BF16", (E, H))}
        for expert in range(E):
            for name, shape in {"gate": (I, H), "up": (I, H), "down": (H, I)}.items():
                yield "experts", pack(f"{head}.mlp.experts.{expert}.{name}_proj", *shape)


def size_of(held: Tensors) -> int:
    total = 0
    for dtype, shape in held.values():
        size = DTYPE_BYTES[dtype]
        for n in shape:
            size *= n
        total += size
    return total


def planned(model: Model, **asked: Any) -> Plan:
    wide = server(vram=80 * GIB)
    return plan_run(wide, model, RunOptions(model="m", engine="sglang", **asked), read_facts())


def items(made: Plan, pool: str) -> dict[str, int]:
    return {i.name: i.bytes for p in made.pools if p.name.startswith(pool) for i in p.items}


def test_bytes_of_every_format_are_the_sum_of_its_tensors(tmp_path: Path) -> None:
    for name, (quantised, pack, method, weight) in FORMATS.items():
        config = {**CONFIG, **({"quantization_config": quantised} if quantised else {})}
        sums: Counter[str] = Counter()
        held: Tensors = {}
        for line, part in tensors(pack):
            sums[line] += size_of(part)
            held |= part
        folder = write_checkpoint(tmp_path / name.replace(" ", "-"), config, held)
        for model in (catalog.read(folder), catalog.from_config(config, "m")):
            assert model.bytes["routed_experts"] == sums["experts"], name
            assert model.total_bytes == sum(sums.values()), name
            assert model.total_parameters == PARAMETERS, name
            whole = items(planned(model), "GPU0")
            lines = {line: whole.get(line) for line in ("attention", "embedding", "router, norms")}
            assert lines == {line: sums[line] for line in lines}, name
            assert whole["GPU experts"] == sums["experts"], name
            shared = planned(model, gpu_experts=1)
            assert (shared.value("kt_method") or "") == method, name
            assert shared.fits == bool(method), name
            if method:
                assert items(shared, "GPU0")["GPU experts"] == sums["experts"] // E, name
                nodes = [i for p in shared.pools for i in p.items if i.name == "experts"]
                expected = int(3 * H * I * weight) * E * L
                assert sum(i.bytes for i in nodes) == expected, name


PARAMETERS = (
    2 * VOCAB * H + H + L * (2 * H + 2 * DIM + (HEADS + 2 * KV) * DIM * H + HEADS * DIM * H)
    + L * (E * H + E * 3 * H * I)
)  # fmt: skip


def test_a_draft_layer_is_not_counted_on_the_gpu_whatever_its_tensors_are_called(
    tmp_path: Path,
) -> None:
    held: Tensors = {}
    for _, part in tensors(plain):
        held |= part
    head = f"model.layers.{L}"
    extra: Tensors = {
        f"{head}.eh_proj.weight": ("BF16", (H, 2 * H)),
        f"{head}.enorm.weight": ("BF16", (H,)),
        f"{head}.shared_head.head.weight": ("BF16", (VOCAB, H)),
        f"{head}.projection_of_a_new_kind.weight": ("BF16", (H, H)),
        f"{head}.mlp.experts.0.up_proj.weight": ("BF16", (I, H)),
    }
    model = catalog.read(write_checkpoint(tmp_path / "m", dict(CONFIG), held | extra))
    assert model.bytes["draft"] == size_of(extra)
    bare = replace(model, bytes={k: v for k, v in model.bytes.items() if k != "draft"})
    assert items(planned(model), "GPU0") == items(planned(bare), "GPU0")
