"""`KTMoEWrapper`: kt-kernel's checkpoints, calls, masks, deferral, and what it refuses."""

import numpy as np
import pytest
import torch
from kt_moe import KTMoEWrapper, reference
from kt_moe.files import FileError, NotWhole
from kt_moe.formats import FormatError, UnsupportedFormat
from safetensors.torch import load_file, save_file

from . import checkpoint_files as files

pytestmark = pytest.mark.usefixtures("kernels")
E, K, H, I, LAYER = 4, 2, 256, 256, 3  # noqa: E741
EXPERTS = files.matrices(E, H, I)


def wrapper(path, method, **changes):
    settings = {
        "layer_idx": LAYER,
        "num_experts": E,
        "num_experts_per_tok": K,
        "hidden_size": H,
        "moe_intermediate_size": I,
        "gpu_experts_mask": None,
        "cpuinfer_threads": 2,
        "threadpool_count": 1,
        "weight_path": str(path),
        "chunked_prefill_size": 512,
        "method": method,
    }
    return KTMoEWrapper(**settings | changes)


def inputs(tokens=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, H, generator=generator).bfloat16()
    ids = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(tokens)])
    return x, ids, torch.rand(tokens, K, generator=generator)


def expected(held, x, ids, weights, mask=None, order=None):
    stacks = [np.stack(m).astype(np.float64) for m in zip(*held, strict=True)]
    if order is not None:
        stacks = [m[order] for m in stacks]
    layer = reference.layer(*stacks, mask=mask)
    arrays = (x.double().numpy(), ids.numpy(), weights.double().numpy())
    return reference.forward(layer, *arrays)


def off(ours, wanted):
    return np.linalg.norm(ours.double().numpy() - wanted) / np.linalg.norm(wanted)


LIMITS = {"BF16": 0.006, "RAWINT4": 0.03, "GPTQ_INT4": 0.03}


@pytest.mark.parametrize("method", files.NATIVE)
def test_published_checkpoints_compute_what_they_hold(method, tmp_path):
    held = files.write_native(tmp_path, method, LAYER, EXPERTS)
    moe = wrapper(tmp_path, method)
    moe.load_weights(torch.arange(E))
    call = inputs()
    out = moe.forward(*call, cuda_stream=0)
    assert (out.shape, out.dtype) == (call[0].shape, torch.bfloat16)
    assert off(out, expected(held, *call)) < LIMITS.get(method, 0.03)


def test_stacks_of_gate_and_up_are_read(tmp_path):
    held = files.write_stacks(tmp_path, LAYER, EXPERTS)
    moe = wrapper(tmp_path, "BF16")
    moe.load_weights()
    call = inputs()
    assert off(moe.forward(*call, None), expected(held, *call)) < 0.006


@pytest.mark.parametrize(
    "kinds", [("Q8_0",) * 3, ("Q4_0", "Q5_0", "F16"), ("Q4_1", "Q5_1", "Q8_0")]
)
def test_gguf_files_compute_what_they_hold(kinds, tmp_path):
    held = files.write_gguf(tmp_path, kinds, LAYER, EXPERTS)
    moe = wrapper(tmp_path, "LLAMAFILE")
    moe.load_weights(torch.arange(E))
    call = inputs()
    assert off(moe.forward(*call, None), expected(held, *call)) < 0.03


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("bits", "limit"), [(8, 0.03), (4, 0.08)])
def test_tiles_of_kt_kernel_are_read_for_any_number_of_numa_parts(bits, limit, parts, tmp_path):
    held = files.write_amx(tmp_path, bits, LAYER, EXPERTS, parts)
    moe = wrapper(tmp_path, f"AMXINT{bits}")
    moe.load_weights(torch.arange(E))
    call = inputs()
    assert off(moe.forward(*call, None), expected(held, *call)) < limit
    assert moe.repack_error < limit


@pytest.mark.parametrize(
    ("method", "limit"), [("BF16", 0.006), ("AMXINT8", 0.03), ("AMXINT4", 0.15)]
)
def test_tensors_are_quantised_when_they_are_loaded(method, limit, tmp_path):
    stacks = [torch.from_numpy(np.stack(m)).bfloat16() for m in zip(*EXPERTS, strict=True)]
    moe = wrapper(tmp_path, method)
    moe.load_weights_from_tensors(*stacks, torch.arange(E))
    call = inputs()
    assert off(moe.forward(*call, None), expected(EXPERTS, *call)) < limit


def test_the_expert_map_says_which_expert_a_slot_takes(tmp_path):
    held = files.write_native(tmp_path, "BF16", LAYER, EXPERTS)
    moe, order = wrapper(tmp_path, "BF16"), [2, 0, 3, 1]
    moe.load_weights(torch.tensor(order))
    call = inputs()
    assert off(moe.forward(*call, None), expected(held, *call, order=order)) < 0.006


@pytest.fixture
def loaded(tmp_path):
    held = files.write_native(tmp_path, "BF16", LAYER, EXPERTS)

    def make(**changes):
        moe = wrapper(tmp_path, "BF16", **changes)
        moe.load_weights()
        return moe

    return make, held


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu_experts_mask": torch.tensor([True, True, False, False])},
        {"num_gpu_experts": 2},
        {"gpu_experts_mask": 2},
    ],
)
def test_experts_of_the_gpu_are_left_out_in_each_form_of_the_constructor(changes, loaded):
    make, held = loaded
    moe = make(**changes)
    assert moe.num_gpu_experts == 2
    call = inputs()
    mask = np.array([True, True, False, False])
    assert off(moe.forward(*call, None), expected(held, *call, mask=mask)) < 0.006
    moe.gpu_experts_mask[0] = False
    mask[0] = False
    assert off(moe.forward(*call, None), expected(held, *call, mask=mask)) < 0.006


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_input(dtype, loaded):
    make, held = loaded
    x, ids, weights = inputs()
    out = make().forward(x.to(dtype), ids.int(), weights.to(dtype), None)
    assert out.dtype == dtype
    assert off(out, expected(held, x.to(dtype), ids, weights.to(dtype))) < 0.006


def test_submit_and_sync_give_the_result_of_forward(loaded):
    moe = loaded[0]()
    call = inputs()
    moe.submit_forward(*call, None)
    torch.testing.assert_close(moe.sync_forward(call[0], None), moe.forward(*call, None))
    with pytest.raises(RuntimeError, match="sync_forward without submit_forward"):
        moe.sync_forward(call[0], None)


def test_deferred_experts_arrive_with_the_next_layer(loaded, tmp_path):
    make, held = loaded
    first = make(max_deferred_experts_per_token=1)
    second = make()
    second.layer_idx = LAYER + 1
    a, b = inputs(2, seed=1), inputs(2, seed=2)
    a = a[0], torch.tensor([[0, 1], [2, 0]]), torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    now, later = first.select_deferred_experts(a[1], a[2], 1)
    assert (now.tolist(), later.tolist()) == ([[0, -1], [-1, 0]], [[-1, 1], [2, -1]])
    assert off(first.forward(*a, None), expected(held, a[0], now, a[2])) < 0.006
    both = expected(held, *b) + expected(held, a[0], later, a[2])
    assert off(second.forward(*b, None), both) < 0.006
    assert off(second.forward(*b, None), expected(held, *b)) < 0.006


def test_the_best_experts_are_never_deferred():
    moe = object.__new__(KTMoEWrapper)
    ids = torch.tensor([[5, 1, 2], [1, 7, 6]])
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.1, 0.3, 0.6]])
    now, later = moe.select_deferred_experts(ids, scores, 1)
    assert now.tolist() == [[-1, 1, -1], [1, -1, 6]]
    assert later.tolist() == [[5, -1, 2], [-1, 7, -1]]


def test_packed_weights_are_kept_and_mapped_the_second_time(tmp_path):
    stacks = [torch.from_numpy(np.stack(m)) for m in zip(*EXPERTS, strict=True)]
    saving = wrapper(tmp_path, "AMXINT4", cpu_save=True)
    saving.load_weights_from_tensors(*stacks, torch.arange(E))
    again = wrapper(tmp_path, "AMXINT4")
    again.load_weights(torch.arange(E))
    call = inputs()
    torch.testing.assert_close(again.forward(*call, None), saving.forward(*call, None))
    with pytest.raises(ValueError, match="the expert map changes the order"):
        again.load_weights(torch.tensor([1, 0, 2, 3]))
    with pytest.raises(ValueError, match=r"this layer is \(4, 256, 256, 1\)"):
        wrapper(tmp_path, "AMXINT4", num_experts_per_tok=1).load_weights()


def test_capture_sizes_are_shared_by_all_layers():
    KTMoEWrapper.set_capture_batch_sizes([1, 2, 8])
    assert KTMoEWrapper.get_capture_batch_sizes() == [1, 2, 8]
    KTMoEWrapper.clear_buffer_cache()
    KTMoEWrapper.set_capture_batch_sizes([])


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
    with pytest.raises(FormatError, match=r"w1\.weight is BF16|gate_proj\.weight is BF16, not F8"):
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
    import gguf

    for name, rows, columns in (("gate", I, H), ("up", I, H), ("down", H, I)):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "qwen3moe")
        raw = np.zeros((E, rows, columns // 256 * 136), np.uint8)
        kind = gguf.GGMLQuantizationType.IQ4_XS
        writer.add_tensor(f"blk.{LAYER}.ffn_{name}_exps.weight", raw, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    with pytest.raises(UnsupportedFormat, match="GGUF type IQ4_XS is not supported"):
        wrapper(tmp_path, "LLAMAFILE").load_weights()
