"""What `KTMoEWrapper` and the checkpoints refuse, and the fact they name."""

import gguf
import numpy as np
import pytest
import torch
from kt_moe.files import FileError, NotWhole
from kt_moe.formats import FormatError, UnsupportedFormat
from safetensors.torch import load_file, save_file

from . import checkpoint_files as files
from .wrappers import EXPERTS, LAYER, E, H, I, expected, inputs, off, wrapper

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "AMXINT2"}, ValueError, "method 'AMXINT2' is not one of AMXINT4"),
        ({"mode": "sft"}, NotImplementedError, "mode 'sft'"),
        ({"swiglu_limit": 10.0}, NotImplementedError, r"swiglu_limit=10\.0"),
        ({"num_experts": 0}, ValueError, "num_experts must be positive, not 0"),
        ({"num_experts_per_tok": 5}, ValueError, r"num_experts_per_tok \(5\) exceeds"),
        ({"numa_nodes": [0, 1]}, ValueError, "numa_nodes has 2 entries, threadpool_count is 1"),
        ({"num_gpu_experts": 9}, ValueError, "num_gpu_experts is 9, and there are 4"),
        ({"gpu_experts_mask": torch.zeros(3)}, ValueError, r"shape \(3,\), not \(4,\)"),
    ],
)
def test_what_the_constructor_cannot_honour_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        wrapper("", changes.pop("method", "BF16"), **changes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(7, H + 1)}, ValueError, "hidden_states have size 257, not 256"),
        ({"x": torch.zeros(7, H).double()}, TypeError, r"hidden_states are torch\.float64"),
        ({"ids": torch.zeros(7, 3)}, ValueError, r"topk_ids have shape \(7, 3\), not \(7, 2\)"),
        ({"weights": torch.zeros(6, 2)}, ValueError, r"topk_weights have shape \(6, 2\)"),
        ({"ids": torch.zeros(7, 2)}, TypeError, r"topk_ids are torch\.float32"),
        ({"ids": torch.full((7, 2), 4)}, ValueError, "4"),
    ],
)
def test_calls_that_do_not_fit_are_refused_and_the_next_one_works(change, error, message, loaded):
    make, held = loaded
    moe, call = make(), inputs()
    names = ("x", "ids", "weights")
    with pytest.raises(error, match=message):
        moe.forward(*(change.get(n, a) for n, a in zip(names, call, strict=True)), None)
    assert off(moe.forward(*call, None), expected(held, *call)) < 0.006


def test_a_layer_without_weights_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="layer 3 has no weights"):
        wrapper(tmp_path, "BF16").forward(*inputs(), None)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        wrapper(tmp_path / "absent", "BF16").load_weights()


def test_a_checkpoint_of_another_method_or_layer_is_named(tmp_path):
    files.write_native(tmp_path, "BF16", LAYER, EXPERTS)
    with pytest.raises(FileError, match="has no RAWINT4 experts in layer 3"):
        wrapper(tmp_path, "RAWINT4").load_weights()
    with pytest.raises(FileError, match="has no BF16 experts in layer 0"):
        wrapper(tmp_path, "BF16", layer_idx=0).load_weights()
    with pytest.raises(FormatError, match=r"gate_proj is not FP8: it has weight \(BF16\)"):
        wrapper(tmp_path, "FP8").load_weights()
    with pytest.raises(FileError, match="has 4 experts in layer 3: 5 were expected"):
        wrapper(tmp_path, "BF16", num_experts=5).load_weights()


@pytest.mark.parametrize("method", files.NATIVE)
def test_a_shape_that_is_not_the_layers_is_named(method, tmp_path):
    files.write_native(tmp_path, method, LAYER, files.matrices(E, 128, I))
    with pytest.raises(FormatError, match=r"gate of expert 0 is \(256, 128\), not \(256, 256\)"):
        wrapper(tmp_path, method).load_weights()


def test_a_file_cut_short_and_nan_scales_are_named(tmp_path):
    files.write_native(tmp_path, "FP8_PERCHANNEL", LAYER, EXPERTS)
    path = tmp_path / "model-0.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("scale"))
    tensors[name][5] = torch.nan
    save_file(tensors, path)
    with pytest.raises(FormatError, match="1 of 256 scales are NaN or infinite"):
        wrapper(tmp_path, "FP8_PERCHANNEL").load_weights()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NotWhole, match=r"model-0\.safetensors is not a whole safetensors file"):
        wrapper(tmp_path, "FP8_PERCHANNEL").load_weights()


def test_gguf_types_that_cannot_be_read_are_refused_by_name(tmp_path):
    for name, rows, columns in (("gate", I, H), ("up", I, H), ("down", H, I)):
        raw = np.zeros((E, rows, columns // 256 * 98), np.uint8)
        tensor = f"blk.{LAYER}.ffn_{name}_exps.weight"
        kind = gguf.GGMLQuantizationType.IQ3_XXS
        files.write_gguf_tensor(tmp_path / f"{name}.gguf", tensor, raw, kind)
    with pytest.raises(UnsupportedFormat, match="GGUF type IQ3_XXS is not supported"):
        wrapper(tmp_path, "LLAMAFILE").load_weights()
