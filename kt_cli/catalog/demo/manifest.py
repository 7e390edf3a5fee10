"""The file that marks a demo folder as complete, and what is known of the model before that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from kt_cli.documents import read_json
from kt_cli.errors import KtError
from kt_cli.weights import sums

LayoutName = Literal["mixtral", "qwen2_moe", "qwen3_moe", "padded"]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
RECIPE = 3
"""Raised whenever the bytes that come out change."""
MANIFEST = "kt-demo.json"
REMEDY = "start it again: `kt run` and `kt model pull demo` make the demo anew"


def is_whole(folder: Path, layout: LayoutName) -> bool:
    """True for a finished folder of this recipe whose files have their sizes and, but for the
    weights, their sums. Weights are checked when they are used; then nothing may be known against
    them."""
    try:
        manifest = read_json(folder / MANIFEST)
        kept, listed = sums.read(folder), manifest.part("files").values
        sizes = {name: (folder / name).stat().st_size for name in listed}
        texts = [name for name in sizes if not name.endswith(".safetensors")]
        whole = kept and all(sums.of_file(folder / n).crc32 == kept.files[n].crc32 for n in texts)
    except (OSError, KeyError, KtError):
        return False
    kind = (manifest.raw("recipe"), manifest.raw("layout"))
    same = kind == (RECIPE, layout) and sizes == listed
    return bool(same and whole) and not sums.damaged(folder)


def write_manifest(folder: Path, layout: LayoutName, source: Mapping[str, str]) -> None:
    """And the sums of all files."""
    paths = sorted(folder.iterdir())
    files = {path.name: path.stat().st_size for path in paths}
    sums.write(folder, sums.Sums({path.name: sums.of_file(path) for path in paths}, REMEDY))
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
