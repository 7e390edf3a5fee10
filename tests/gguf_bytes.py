"""GGUF files byte by byte, so that they can be wrong where the `gguf` package would refuse."""

import math
import struct

BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 12: (256, 144)}
"""Type: weights and bytes of a block; others are taken for Q4_K (12)."""
H = 256


def text(value):
    content = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(content)) + content


def typed(value):
    """A value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return (
            struct.pack("<II", 4, value) if 0 <= value < 1 << 32 else struct.pack("<Iq", 11, value)
        )
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, (str, bytes)):
        return struct.pack("<I", 8) + text(value)
    items = [typed(item) for item in value] or [struct.pack("<II", 4, 0)]
    return (
        struct.pack("<I", 9)
        + items[0][:4]
        + struct.pack("<Q", len(value))
        + (b"".join(item[4:] for item in items) if value else b"")
    )


def moe(arch="qwen3moe", layers=2, experts=4, context=4096):
    """Metadata and tensors (name → dims with the fastest first, type) of a small model."""
    metadata = {
        "general.architecture": arch,
        f"{arch}.block_count": layers,
        f"{arch}.embedding_length": H,
        f"{arch}.context_length": context,
        f"{arch}.attention.head_count": 4,
        f"{arch}.attention.head_count_kv": 2,
        f"{arch}.expert_count": experts,
        f"{arch}.expert_used_count": min(2, experts),
        "tokenizer.ggml.tokens": ["a"] * 64,
    }
    tensors = {"token_embd.weight": ((H, 64), 0)}
    for layer in range(layers):
        block = f"blk.{layer}."
        tensors |= {
            f"{block}attn_q.weight": ((H, H), 8),
            f"{block}attn_k.weight": ((H, H // 2), 8),
            f"{block}attn_v.weight": ((H, H // 2), 8),
            f"{block}attn_output.weight": ((H, H), 8),
            f"{block}ffn_gate_inp.weight": ((H, experts), 0),
            f"{block}ffn_gate_exps.weight": ((H, H, experts), 12),
            f"{block}ffn_up_exps.weight": ((H, H, experts), 12),
            f"{block}ffn_down_exps.weight": ((H, H, experts), 12),
        }
    return metadata, tensors


def write(path, metadata, tensors, version=3):
    """Data is a hole in the file: nothing here reads it."""
    pairs = [text(key) + typed(value) for key, value in metadata.items() if value is not None]
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    at, table = 0, []
    for name, (dims, kind) in tensors.items():
        weights, size = BLOCKS.get(kind, BLOCKS[12])
        table.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at))
        at += -(-math.prod(dims) // weights * size // 32) * 32
    content = head + b"".join(table)
    with path.open("wb") as file:
        file.write(content)
        file.truncate(-(-len(content) // 32) * 32 + at)
    return path
