"""What says that a demo folder is whole, and what can be known of the model before it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

LayoutName = Literal["mixtral", "qwen2_moe", "qwen3_moe", "padded"]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
RECIPE = 3
"""Raised whenever the bytes that come out change."""
MANIFEST = "kt-demo.json"


def is_whole(folder: Path, layout: LayoutName) -> bool:
    """True for a finished folder of this recipe whose files still have their sizes."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    kind = (manifest.get("recipe"), manifest.get("layout"))
    return kind == (RECIPE, layout) and bool(sizes == manifest["files"])


def write_manifest(folder: Path, layout: LayoutName, source: Mapping[str, str]) -> None:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {
        "recipe": RECIPE,
        "layout": layout,
        "source": {**source, "license": "Apache-2.0"},
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


CONFIG: Mapping[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "intermediate_size": 768,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
    "output_router_logits": False,
}
"""Configuration of the `mixtral` layout, for plans before the model is made."""
