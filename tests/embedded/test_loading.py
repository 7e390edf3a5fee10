"""Weights: streamed, shared where tied, named when absent, unexpected or of a wrong shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import kt_moe
import pytest
import torch
from safetensors.torch import load_file, save_file

from kt_cli.embedded.dtypes import choose_dtype
from kt_cli.embedded.inject import read_rules
from kt_cli.embedded.loading import LoadOptions, load_model, read_config, skeleton
from kt_cli.embedded.parameters import Parameters
from kt_cli.embedded.presets import rules_for
from kt_cli.errors import AuthError, KtError, NotFoundError, TransferError, UsageError
from kt_cli.weights.checkpoint import Checkpoint

EXPERT = "model.layers.1.block_sparse_moe.experts.2.w1.weight"


def load(path, kind="mixtral", **options):
    options = LoadOptions(**{"dtype": "fp32", **options})
    return load_model(path, read_rules(rules_for(kind)), options, lambda *_: None)


@pytest.fixture
def changed(tiny, tmp_path):
    """A copy of the tiny Mixtral whose tensors and config have been changed."""

    def make(change=lambda tensors: None, **config):
        path, _ = tiny("mixtral")
        shutil.copytree(path, tmp_path / "m")
        file = tmp_path / "m" / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})
        text = tmp_path / "m" / "config.json"
        text.write_text(json.dumps(json.loads(text.read_text()) | config))
        return tmp_path / "m"

    return make


def test_a_missing_tensor_is_named(changed):
    path = changed(lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(TransferError, match=r"lacks 1 tensors of the model: model\.norm\.weight"):
        load(path)


def test_missing_tensors_of_an_expert_are_named(changed):
    path = changed(lambda tensors: tensors.pop(EXPERT))
    with pytest.raises(TransferError) as caught:
        load(path)
    assert "model.layers.1.mlp.experts.gate_up_proj" in caught.value.what + caught.value.why


def test_a_tensor_of_a_wrong_shape_is_named(changed):
    def shrink(tensors):
        tensors["model.norm.weight"] = torch.ones(31)

    with pytest.raises(TransferError) as caught:
        load(changed(shrink))
    assert "model.norm.weight has the shape [31]" in caught.value.what
    assert "[32]" in caught.value.why


def test_unexpected_tensors_are_reported_and_do_no_harm(changed):
    def add(tensors):
        tensors["model.layers.9.extra.weight"] = torch.ones(2)

    notes = load(changed(add)).notes
    assert any("model.layers.9.extra.weight" in note for note in notes)


def test_a_model_that_must_do_without_the_kernels_says_why(tiny, monkeypatch):
    path, _ = tiny("mixtral")
    monkeypatch.setattr(kt_moe, "available", False)
    monkeypatch.setattr(kt_moe, "why", "KT_ISA=sparc is unknown")
    assert any("through PyTorch" in n and "sparc" in n for n in load(path).notes)
    assert load(path, experts_backend="torch").notes == ()


def test_tied_embeddings_share_memory(tiny):
    path, _ = tiny("mixtral_tied")
    model = load(path).model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_nothing_stays_without_memory(tiny):
    for family, kind in (("gpt_oss", None), ("deepseek_v2", None), ("olmoe", None)):
        path, _ = tiny(family)
        model = load(path, kind).model
        empty = {n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta}
        assert all(".experts.orig_module." in name for name in empty)


def test_a_checkpoint_in_shards_loads(tiny, tmp_path):
    path, model = tiny("olmoe")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    names = set(Checkpoint(tmp_path).names())
    assert names == set(Checkpoint(path).names())
    text = torch.arange(5, 15)[None]
    with torch.inference_mode():
        assert torch.equal(
            load(path, None).model(text).logits, load(tmp_path, None).model(text).logits
        )


def test_a_missing_shard_is_named(tiny, tmp_path):
    _, model = tiny("olmoe")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(NotFoundError, match="not complete") as caught:
        load(tmp_path, None)
    assert "model-00002" in caught.value.why


def test_a_truncated_file_is_damaged(tiny, tmp_path):
    path, _ = tiny("olmoe")
    shutil.copytree(path, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TransferError, match="not a whole safetensors file"):
        load(tmp_path / "m", None)


def test_one_parameter_is_read_at_a_time(tiny):
    """The tensors of an expert layer are read when that layer asks for them, not before."""
    path, _ = tiny("mixtral")
    read = []

    class Watched(Checkpoint):
        def mapped(self, name):
            read.append(name)
            return super().mapped(name)

    model = skeleton(read_config(path, False), torch.float32)
    parameters = Parameters(model, Watched(path))
    assert read == []
    parameters.read("model.layers.1.mlp.experts.down_proj")
    assert read == [f"model.layers.1.block_sparse_moe.experts.{n}.w2.weight" for n in range(4)]


@pytest.mark.parametrize(
    ("config", "error", "fact"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, UsageError, "quantised with gptq"),
        ({"auto_map": {"AutoConfig": "x.Y"}}, AuthError, "needs remote code"),
        ({"model_type": "no_such_model"}, UsageError, "model type `no_such_model`"),
    ],
)
def test_a_model_that_cannot_run_here_is_refused(config, error, fact, changed):
    with pytest.raises(error, match=fact):
        load(changed(**config))


def test_a_directory_without_a_model_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match=r"config\.json"):
        read_config(tmp_path, False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TransferError, match=r"config\.json"):
        read_config(tmp_path, False)


def test_a_model_that_generates_no_text_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UsageError, match="cannot generate text"):
        load(tmp_path, None)


def test_the_dtype_is_chosen_with_a_reason():
    assert choose_dtype("bf16", "cpu").dtype is torch.bfloat16
    assert choose_dtype("float32", "cpu").why == "asked for"
    assert choose_dtype(None, "cuda:0").dtype is torch.bfloat16
    assert choose_dtype("auto", "cpu").why.startswith("this CPU")
    with pytest.raises(KtError, match="unknown dtype"):
        choose_dtype("fp7", "cpu")


def test_bfloat16_agrees_with_float32_in_distribution(tiny):
    path, model = tiny("mixtral")
    text = torch.arange(5, 60)[None]
    for kind in (None,):
        got = load(path, kind, dtype="bf16", experts_backend="torch").model(text).logits[0].float()
        with torch.inference_mode():
            expected = model(text).logits[0]
        kl = torch.nn.functional.kl_div(
            got.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        assert kl < 0.02


def test_the_source_tree_has_its_rules():
    assert rules_for("mixtral").name == "mixtral.yaml"
    assert rules_for("olmoe").name == "general.yaml"
    assert Path(rules_for(None)).is_file()
