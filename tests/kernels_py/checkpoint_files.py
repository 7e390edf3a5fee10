"""Writes one layer of experts as the checkpoints of every method hold them."""

import gguf
import numpy as np
import torch
from kt_moe import formats
from kt_moe.formats.floats import to_bf16
from safetensors.torch import save_file

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
W = ("w1", "w3", "w2")


def matrices(experts, hidden, inter, seed=0):
    """Per expert: gate, up [I, H] and down [H, I] in float32."""
    rng = np.random.default_rng(seed)
    normal = lambda *s: (rng.standard_normal(s) / np.sqrt(s[1])).astype(np.float32)  # noqa: E731
    return [
        (normal(inter, hidden), normal(inter, hidden), normal(hidden, inter))
        for _ in range(experts)
    ]


def bf16(array):
    return torch.from_numpy(to_bf16(array).view(np.int16)).view(torch.bfloat16)


def as_dtype(array, dtype):
    return torch.from_numpy(np.ascontiguousarray(array)).view(dtype)


E4M3, E8M0 = torch.float8_e4m3fn, torch.float8_e8m0fnu


def plain(w):
    return {".weight": bf16(w)}, formats.Plain(to_bf16(w))


def fp8(w):
    q = formats.fp8_blocks(w)
    parts = {".weight": as_dtype(q.weight, E4M3), ".weight_scale_inv": torch.from_numpy(q.scale)}
    return parts, q


def fp8_rows(w):
    q = formats.fp8_rows(w)
    parts = {".weight": as_dtype(q.weight, E4M3), ".weight_scale": torch.from_numpy(q.scale)}
    return parts, q


def rawint4(w):
    q = formats.int4(w, 32)
    q = formats.Codes(q.values, bf16(q.scales).float().numpy(), 4)
    packed = formats.rawint4(q)
    shape = torch.tensor(w.shape)
    words = torch.from_numpy(packed.weight)
    return {".weight_packed": words, ".weight_scale": bf16(q.scales), ".weight_shape": shape}, q


def gptq(w):
    q = formats.int4(w, 64)
    packed = formats.gptq(q)
    zeros = torch.full((len(packed.scales), w.shape[0] // 8), 0x77777777, dtype=torch.int32)
    groups = torch.arange(w.shape[1], dtype=torch.int32) // 64
    parts = {
        ".qweight": torch.from_numpy(packed.qweight),
        ".scales": torch.from_numpy(packed.scales).half(),
        ".qzeros": zeros,
        ".g_idx": groups,
    }
    return parts, q


def mxfp4(w):
    q = formats.mxfp4(w)
    return {".weight": as_dtype(q.weight, torch.int8), ".scale": as_dtype(q.scale, E8M0)}, q


def mxfp8(w):
    q = formats.mxfp8(w)
    scale = torch.from_numpy(q.scale)
    return {".weight": as_dtype(q.weight, E4M3), ".weight_scale_inv": scale}, q


def nvfp4(w):
    q = formats.nvfp4(w)
    parts = {
        ".weight": torch.from_numpy(q.weight),
        ".weight_scale": as_dtype(q.scale, E4M3),
        ".weight_scale_2": torch.tensor(q.whole),
    }
    return parts, q


NATIVE = {
    "BF16": ("model.layers.{}.mlp.experts", PROJECTIONS, plain),
    "FP8": ("model.layers.{}.block_sparse_moe.experts", W, fp8),
    "FP8_PERCHANNEL": ("model.language_model.layers.{}.mlp.experts", PROJECTIONS, fp8_rows),
    "RAWINT4": ("language_model.model.layers.{}.mlp.experts", PROJECTIONS, rawint4),
    "GPTQ_INT4": ("model.layers.{}.mlp.experts", PROJECTIONS, gptq),
    "MXFP4": ("layers.{}.ffn.experts", W, mxfp4),
    "MXFP8": ("language_model.model.layers.{}.block_sparse_moe.experts", W, mxfp8),
    "NVFP4": ("model.layers.{}.mlp.experts", PROJECTIONS, nvfp4),
}


def write_native(folder, method, layer, experts):
    """Two shards; returns what every expert decodes to."""
    base, names, encode = NATIVE[method]
    shards, held = [{}, {}], []
    for e, triple in enumerate(experts):
        held.append([])
        for name, weights in zip(names, triple, strict=True):
            parts, matrix = encode(weights)
            held[-1].append(matrix.decode())
            key = f"{base.format(layer)}.{e}.{name}"
            shards[e % 2] |= {key + ending: t.contiguous() for ending, t in parts.items()}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors")
    return held


def write_stacks(folder, layer, experts):
    """gate_up_proj and down_proj, as transformers 5 writes them."""
    both = np.stack([np.concatenate([gate, up]) for gate, up, _ in experts])
    down = np.stack([down for _, _, down in experts])
    base = f"model.layers.{layer}.mlp.experts"
    tensors = {f"{base}.gate_up_proj": bf16(both), f"{base}.down_proj": bf16(down)}
    save_file(tensors, folder / "model.safetensors")
    return [[formats.Plain(to_bf16(w)).decode() for w in triple] for triple in experts]


def write_gguf(folder, kinds, layer, experts):
    """A file for each projection; `kinds` are the types of gate, up and down."""
    held = []
    for name, kind, stack in zip(
        ("gate", "up", "down"), kinds, zip(*experts, strict=True), strict=True
    ):
        packed = gguf.quants.quantize(np.stack(stack), gguf.GGMLQuantizationType[kind])
        held.append(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[kind]))
        dtype = gguf.GGMLQuantizationType[kind]
        write_gguf_tensor(
            folder / f"{name}.gguf", f"blk.{layer}.ffn_{name}_exps.weight", packed, dtype
        )
    return [list(triple) for triple in zip(*held, strict=True)]


HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where a block keeps its fp16 scales."""


def write_k_quants(folder, kinds, layer, shapes):
    """Random codes and inner scales with sensible outer scales; `shapes` are [E, out, in]."""
    rng, held = np.random.default_rng(4), []
    for name, kind, (count, rows, columns) in zip(
        ("gate", "up", "down"), kinds, shapes, strict=True
    ):
        size = formats.gguf.BLOCKS[kind][1]
        raw = rng.integers(0, 256, (count, rows, columns // 256, size), dtype=np.uint8)
        for at in HALVES[kind]:
            outer = rng.uniform(1e-4, 1.2e-4, raw.shape[:3]).astype(np.float16)
            raw[..., at : at + 2] = outer[..., None].view(np.uint8)
        raw = raw.reshape(count, rows, -1)
        dtype = gguf.GGMLQuantizationType[kind]
        held.append(gguf.quants.dequantize(raw, dtype))
        write_gguf_tensor(
            folder / f"{name}.gguf", f"blk.{layer}.ffn_{name}_exps.weight", raw, dtype
        )
    return [list(triple) for triple in zip(*held, strict=True)]


def write_gguf_tensor(path, name, raw, dtype):
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_tensor(name, raw, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def amx_tiles(values, bits):
    """Codes [N, K] in the byte order of kt-kernel's tiles, for K up to 3584: one loop a level."""
    n, k = values.shape
    high, span = (64, 64) if bits == 8 else (128, 128)
    out = bytearray()
    for block in range(0, n, high):
        for row in range(block, min(block + high, n), 32):
            for column in range(0, k, span):
                for panel in (row, row + 16):
                    for quad in range(column, column + 64, 4):
                        for r in range(panel, panel + 16):
                            out += bytes(_byte(values, r, quad + j, bits) for j in range(4))
    return np.frombuffer(bytes(out), np.int8).copy()


def _byte(values, row, column, bits):
    if bits == 8:
        return int(values[row, column]) & 255
    return int(values[row, column]) & 15 | (int(values[row, column + 64]) & 15) << 4


def write_amx(folder, bits, layer, experts, parts):
    """Merged safetensors cut into `parts` NUMA parts; one scale per row and part."""
    tensors, held = {}, []
    for e, triple in enumerate(experts):
        held.append([])
        for name, axis, weights in zip(("gate", "up", "down"), (0, 0, 1), triple, strict=True):
            pieces = []
            for n, piece in enumerate(np.split(weights, parts, axis=axis)):
                top = 127 if bits == 8 else 7
                unit = np.abs(piece).max(axis=1, keepdims=True) / top
                values = np.rint(piece / unit).astype(np.int8)
                pieces.append(values * unit)
                key = f"blk.{layer}.ffn_{name}_exps.{e}.numa.{n}"
                scale = unit[:, 0] if bits == 8 else unit[:, 0] / 16
                tensors[f"{key}.weight"] = torch.from_numpy(amx_tiles(values, bits))
                tensors[f"{key}.scale"] = torch.from_numpy(scale.astype(np.float32))
            held[-1].append(np.concatenate(pieces, axis=axis))
    save_file(tensors, folder / "layer.safetensors")
    return held
