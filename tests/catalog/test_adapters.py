from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kt_cli.catalog.adapters import read_adapter
from kt_cli.errors import KtError, NotFoundError

ATTENTION = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
EXPERT = "model.layers.0.mlp.experts.3.up_proj.lora_B.weight"


def adapter(folder: Path, *names: str, config: Any = None) -> Path:
    """Each tensor is 2 × 8 in bf16: 32 bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config or {"r": 8}))
    places = [(32 * i, 32 * i + 32) for i in range(len(names))]
    header = {
        name: {"dtype": "BF16", "shape": [2, 8], "data_offsets": place}
        for name, place in zip(names, places, strict=True)
    }
    text = json.dumps(header).encode()
    body = struct.pack("<Q", len(text)) + text + bytes(32 * len(names))
    (folder / "adapter_model.safetensors").write_bytes(body)
    return folder


def test_experts_and_the_rest_are_counted_apart(tmp_path: Path) -> None:
    found = read_adapter(f"mine={adapter(tmp_path / 'a', ATTENTION, EXPERT, EXPERT + '2')}")
    assert (found.name, found.rank, found.experts, found.others) == ("mine", 8, 64, 32)
    assert found.path == str(tmp_path / "a")


def test_a_folder_names_itself(tmp_path: Path) -> None:
    assert read_adapter(str(adapter(tmp_path / "tuned", ATTENTION))).name == "tuned"


def test_a_folder_without_an_adapter_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no LoRA adapter"):
        read_adapter(f"a={tmp_path}")


def test_a_rank_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(KtError, match="cannot read"):
        read_adapter(str(adapter(tmp_path / "a", ATTENTION, config={"r": "eight"})))


def test_an_adapter_that_is_not_converted_says_how(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", ATTENTION)
    (folder / "fused_expert_lora.safetensors").write_bytes(b"")
    with pytest.raises(KtError) as caught:
        read_adapter(str(folder))
    assert "convert_kt_to_sglang_adapter" in caught.value.fix
