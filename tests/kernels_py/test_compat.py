"""`KTMoEWrapper`: kt-kernel's checkpoints, calls, masks and deferral."""

import numpy as np
import pytest
import torch
from kt_moe import KTMoEWrapper

from . import checkpoint_files as files
from .wrappers import EXPERTS, LAYER, E, H, I, expected, inputs, off, wrapper

pytestmark = pytest.mark.usefixtures("kernels")
LIMITS = {"BF16": 0.006}


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


@pytest.mark.parametrize(
    ("kind", "of_down", "packed"),
    [
        ("Q2_K", "Q2_K", ("q4_1", 16, "q4_1", 16)),
        ("Q3_K", "Q3_K", ("int4", 16, "int4", 16)),
        ("Q4_K", "Q4_K", ("q4_1", 32, "q4_1", 32)),
        ("Q5_K", "Q5_K", ("q6_1", 32, "q6_1", 32)),
        ("Q6_K", "Q6_K", ("q6_0", 16, "q6_0", 16)),
        ("Q4_K", "Q6_K", ("q4_1", 32, "q6_0", 16)),
        ("Q5_K", "Q6_K", ("q6_1", 32, "q6_0", 16)),
        ("Q2_K", "Q3_K", ("q4_1", 16, "int4", 16)),
    ],
)
def test_k_quants_compute_what_they_hold(kind, of_down, packed, tmp_path):
    shapes = [(E, I, H), (E, I, H), (E, H, I)]
    held = files.write_k_quants(tmp_path, (kind, kind, of_down), LAYER, shapes)
    moe = wrapper(tmp_path, "LLAMAFILE")
    moe.load_weights(torch.arange(E))
    call = inputs()
    assert off(moe.forward(*call, None), expected(held, *call)) < 0.03
    assert moe.repack_error < 4e-4
    experts = moe._experts
    assert (experts.format, experts.group, experts.down_format, experts.down_group) == packed


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
