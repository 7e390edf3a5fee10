"""Experts reach the kernels from where the checkpoint is mapped, whatever way it lays them out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadOptions, load_model, read_config, skeleton
from kt_cli.embedded.operators.experts_kt import KtMoeOptions, packed
from kt_cli.embedded.operators.layout import Layout
from kt_cli.embedded.parameters import Parameters
from kt_cli.embedded.presets import rules_for
from kt_cli.errors import NotFoundError, TransferError
from kt_cli.weights.checkpoint import Checkpoint

Tiny = Callable[[str], tuple[Path, Any]]
EXPERTS = "model.layers.1.mlp.experts"
FILE = "model.safetensors"


def parameters_of(path: Path) -> Parameters:
    model = skeleton(read_config(path, False), torch.bfloat16)
    return Parameters(model, Checkpoint(path))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_matrices_are_those_of_the_whole_parameter(tiny: Tiny, family: str, name: str) -> None:
    parameters = parameters_of(tiny(family)[0])
    whole = parameters.read(f"{EXPERTS}.{name}", torch.float32)
    parts = parameters.matrices(f"{EXPERTS}.{name}")
    assert torch.equal(torch.stack([torch.cat(p).float() for p in parts]), whole)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_what_is_only_stacked_stays_where_it_is_mapped(tiny: Tiny, family: str) -> None:
    parameters = parameters_of(tiny(family)[0])
    checkpoint = parameters.checkpoint
    places = [checkpoint.mapped(name) for name in checkpoint.names()]
    held = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in places]
    for name in ("gate_up_proj", "down_proj"):
        for part in (p for parts in parameters.matrices(f"{EXPERTS}.{name}") for p in parts):
            assert any(start <= part.data_ptr() < end for start, end in held)


@pytest.mark.parametrize(("transposed", "split"), [(False, False), (False, True), (True, False)])
def test_each_layout_packs_the_same_experts(transposed: bool, split: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    up, down = (torch.randn(2, n, k, generator=generator) for n, k in ((128, 96), (96, 64)))
    layout = Layout(2, 96, 64, transposed, False, True, True, torch.nn.SiLU(), lambda x: x)

    def matrices(name: str) -> list[tuple[torch.Tensor, ...]]:
        if name == "gate_up_proj" and split:
            return [tuple(m.chunk(2)) for m in up]
        return [(m.T if transposed else m,) for m in (up if name == "gate_up_proj" else down)]

    made = packed(layout, matrices, KtMoeOptions("bf16", 1, 1))
    gate, second, back = (torch.from_numpy(m) for m in made.dequantised(1))
    assert torch.equal(torch.cat([gate, second]), up[1].bfloat16().float())
    assert torch.equal(back, down[1].bfloat16().float())


def test_weights_in_full_precision_are_packed_from_it(tiny: Tiny, tmp_path: Path) -> None:
    """Through bf16, as the model computes, int8 would round twice."""
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen3_moe")[0], folder)
    exact = {n: t.float() * 1.001 for n, t in load_file(folder / FILE).items()}
    save_file(exact, folder / FILE, {"format": "pt"})
    chosen = LoadOptions(dtype="bf16", experts_format="int8")
    loaded = load_model(folder, read_rules(rules_for(None)), chosen, lambda *_: None)
    layer = loaded.model.model.layers[1].mlp.experts.compute.layer
    gate = exact[f"{EXPERTS}.2.gate_proj.weight"]
    step = gate.abs().amax(dim=1, keepdim=True) / 127
    assert ((torch.from_numpy(layer.dequantised(2)[0]) - gate).abs() <= step * 0.5001).all()


@pytest.mark.parametrize("shape", [None, (23, 32), (24, 31)])
def test_a_missing_or_odd_expert_is_named(
    tiny: Tiny, tmp_path: Path, shape: tuple[int, int] | None
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny("qwen3_moe")[0], folder)
    tensors = load_file(folder / FILE)
    tensors.pop(f"{EXPERTS}.2.up_proj.weight")
    if shape:
        tensors[f"{EXPERTS}.2.up_proj.weight"] = torch.zeros(shape, dtype=torch.bfloat16)
    save_file(tensors, folder / FILE, {"format": "pt"})
    with pytest.raises(TransferError, match="gate_up_proj"):
        load_model(folder, read_rules(rules_for(None)), LoadOptions("cpu", "bf16"), print)


def test_tensors_can_be_expected_before_they_are_used(tiny: Tiny) -> None:
    checkpoint = Checkpoint(tiny("qwen3_moe")[0])
    before = [checkpoint.get(name) for name in checkpoint.names()]
    checkpoint.expect(checkpoint.names())
    checkpoint.expect([])
    assert all(map(torch.equal, before, map(checkpoint.mapped, checkpoint.names())))
    with pytest.raises(NotFoundError, match="has no tensor nowhere"):
        checkpoint.expect(["nowhere"])
