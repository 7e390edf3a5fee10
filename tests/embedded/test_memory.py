"""What stays in memory once a model is loaded."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from embedded.models import FAMILIES
from kt_cli.embedded import engine
from kt_cli.embedded.loading import LoadOptions, load_model, read_config


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("family", ["mixtral_tied", "qwen3_moe_mixed", "deepseek_v3"])
def test_no_file_of_the_checkpoint_stays_mapped(family: str, dtype: str, tiny) -> None:
    assert family in FAMILIES
    path, _ = tiny(family)
    rules = engine._rules(None, read_config(path, False))
    loaded = load_model(path, rules, LoadOptions(dtype=dtype), lambda *_: None)
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert sum(p.numel() for p in loaded.model.parameters()) > 0
