"""Every format becomes packed experts that compute what the format says, to a known error."""

import gguf
import kt_moe
import numpy as np
import pytest
from kt_moe import reference
from kt_moe.formats import (
    Awq,
    Codes,
    FormatError,
    GgufBlocks,
    Gptq,
    MxFp4,
    NvFp4,
    Plain,
    fp8_blocks,
    fp8_rows,
    gptq,
    int4,
    int8,
    load,
    mxfp4,
    mxfp8,
    nvfp4,
    rawint4,
)
from kt_moe.formats.floats import to_bf16
from kt_moe.formats.gguf import BLOCKS
from kt_moe.formats.load import to_experts

pytestmark = pytest.mark.usefixtures("kernels")
E, H, I, T, K = 3, 256, 512, 5, 2  # noqa: E741


def awq(weights):
    """Random codes of the right shape: AWQ is read only."""
    rng = np.random.default_rng(9)
    n, k = weights.shape
    word = lambda *shape: rng.integers(-(2**31), 2**31, shape).astype(np.int32)  # noqa: E731
    scales = rng.random((k // 32, n)).astype(np.float32) * 0.01
    return Awq(word(k, n // 8), word(k // 32, n // 8), scales)


def asymmetric_gptq(weights):
    packed = gptq(int4(weights, 64))
    rng = np.random.default_rng(4)
    zeros = rng.integers(-(2**31), 2**31, (len(packed.scales), weights.shape[0] // 8))
    return Gptq(packed.qweight, packed.scales, zeros.astype(np.int32))


def blocks(kind):
    quantize = lambda w: gguf.quants.quantize(w, gguf.GGMLQuantizationType[kind])  # noqa: E731
    return lambda w: GgufBlocks(quantize(w).reshape(-1), kind, w.shape)


def random_blocks(kind, halves):
    """`halves`: where in a block the fp16 scales lie. Types that `gguf` cannot quantise to."""

    def encode(weights):
        per_block, size = BLOCKS[kind]
        rng = np.random.default_rng(2)
        raw = rng.integers(0, 256, (weights.size // per_block, size), dtype=np.uint8)
        for at in halves:
            scales = rng.uniform(0.0001, 0.001, len(raw)).astype(np.float16)
            raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        return GgufBlocks(raw.reshape(-1), kind, weights.shape)

    return encode


def random_q8_k(weights):
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 256, (weights.size // 256, BLOCKS["Q8_K"][1]), dtype=np.uint8)
    raw[:, :4] = rng.uniform(0.0001, 0.001, (len(raw), 1)).astype(np.float32).view(np.uint8)
    return GgufBlocks(raw.reshape(-1), "Q8_K", weights.shape)


EXACT = 1e-7
FORMATS = {
    "bf16": (lambda w: Plain(to_bf16(w)), "bf16", 0),
    "float32": (Plain, "bf16", 0.003),
    "float64": (lambda w: Plain(w.astype(np.float64)), "bf16", 0.003),
    "int8": (int8, "int8", 1e-6),
    "int8 groups": (lambda w: int8(w, 32), "q8_0", 3e-4),
    "int4": (lambda w: int4(w, 64), "int4", EXACT),
    "rawint4": (lambda w: rawint4(int4(w)), "int4", EXACT),
    "gptq": (lambda w: gptq(int4(w, 64)), "int4", EXACT),
    "gptq with zero points": (asymmetric_gptq, "q4_1", 5e-4),
    "awq": (awq, "q4_1", 5e-4),
    "fp8 blocks": (fp8_blocks, "int8", 0.01),
    "fp8 rows": (fp8_rows, "int8", 0.01),
    "mxfp4": (mxfp4, "mxfp4", EXACT),
    "mxfp8": (mxfp8, "int8", 0.01),
    "nvfp4": (nvfp4, "nvfp4", EXACT),
    "Q4_0": (blocks("Q4_0"), "int4", EXACT),
    "Q4_1": (blocks("Q4_1"), "q4_1", EXACT),
    "Q8_0": (blocks("Q8_0"), "q8_0", EXACT),
    "GGUF MXFP4": (blocks("MXFP4"), "mxfp4", EXACT),
    "Q4_K": (random_blocks("Q4_K", (0, 2)), "q4_1", 4e-4),
    "IQ4_NL": (random_blocks("IQ4_NL", (0,)), "iq4_nl", EXACT),
    "IQ4_XS": (random_blocks("IQ4_XS", (0,)), "iq4_nl", 4e-4),
    "Q2_K": (random_blocks("Q2_K", (80, 82)), "q4_1", 4e-4),
    "Q3_K": (random_blocks("Q3_K", (108,)), "int4", 4e-4),
    "Q5_0": (blocks("Q5_0"), "q6_0", EXACT),
    "Q5_1": (blocks("Q5_1"), "q6_1", EXACT),
    "Q5_K": (random_blocks("Q5_K", (0, 2)), "q6_1", 4e-4),
    "Q6_K": (random_blocks("Q6_K", (208,)), "q6_0", 4e-4),
    "Q8_K": (random_q8_k, "int8", 0.012),
}


def triples(encode, seed=0):
    rng = np.random.default_rng(seed)
    shapes = ((I, H), (I, H), (H, I))
    weights = lambda s: (rng.standard_normal(s) / np.sqrt(s[1])).astype(np.float32)  # noqa: E731
    return [tuple(encode(weights(s)) for s in shapes) for _ in range(E)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_packed_to_its_nearest_with_a_small_error(name):
    encode, target, limit = FORMATS[name]
    loaded = to_experts(triples(encode), E, top_k=K)
    assert loaded.experts.format == target
    assert loaded.error <= limit


@pytest.mark.parametrize("name", FORMATS)
def test_packed_experts_compute_with_the_weights_of_the_format(name):
    encode, target, _ = FORMATS[name]
    source = triples(encode)
    experts = to_experts(source, E, top_k=K).experts
    rng = np.random.default_rng(1)
    x = rng.standard_normal((T, H)).astype(np.float32)
    ids, weights = rng.integers(0, E, (T, K)), rng.random((T, K)).astype(np.float32)
    stacks = [np.stack([m.decode() for m in column]) for column in zip(*source, strict=True)]
    expected = reference.forward(reference.layer(*stacks), x, ids, weights)
    error = np.linalg.norm(experts.forward(x, ids, weights) - expected)
    limit = 0.006 if target == "bf16" else 0.03
    assert error < limit * np.linalg.norm(expected)


def test_a_target_can_be_asked_for():
    loaded = to_experts(triples(fp8_rows), E, top_k=K, target="bf16")
    assert (loaded.experts.format, loaded.error < 0.003) == ("bf16", True)


def test_mixed_formats_of_gate_and_up_meet_at_eight_bits():
    mixed = [(int4(np.eye(I, H)), mxfp4(np.eye(I, H)), mxfp4(np.eye(H, I)))]
    experts = to_experts(mixed, 1, top_k=1).experts
    assert (experts.format, experts.down_format) == ("int8", "mxfp4")


def test_groups_with_and_without_a_minimum_meet_at_four_bits():
    rng = np.random.default_rng(6)
    gate, up = (rng.standard_normal((I, H)).astype(np.float32) for _ in range(2))
    down = blocks("Q4_0")(rng.standard_normal((H, I)).astype(np.float32))
    loaded = to_experts([(blocks("Q4_0")(gate), blocks("Q4_1")(up), down)], 1, top_k=1)
    assert (loaded.experts.format, loaded.experts.down_format) == ("q4_1", "int4")
    assert loaded.error < EXACT


def test_six_bits_with_and_without_a_minimum_meet_at_six_bits():
    rng = np.random.default_rng(6)
    gate, up = (rng.standard_normal((I, H)).astype(np.float32) for _ in range(2))
    down = blocks("Q5_1")(rng.standard_normal((H, I)).astype(np.float32))
    loaded = to_experts([(blocks("Q5_1")(gate), blocks("Q5_0")(up), down)], 1, top_k=1)
    assert (loaded.experts.format, loaded.error < EXACT) == ("q6_1", True)


def test_down_keeps_a_form_of_its_own():
    rng = np.random.default_rng(6)
    gate, up = (rng.standard_normal((I, H)).astype(np.float32) for _ in range(2))
    down = Plain(to_bf16(rng.standard_normal((H, I)).astype(np.float32)))
    loaded = to_experts([(mxfp4(gate), mxfp4(up), down)], 1, top_k=1)
    assert (loaded.experts.format, loaded.experts.down_format) == ("mxfp4", "bf16")
    assert loaded.error < EXACT


def test_a_wrong_number_of_experts_or_a_wrong_shape_is_refused():
    source = triples(int8)
    with pytest.raises(FormatError, match="3 experts came, not 4"):
        to_experts(source, 4, top_k=K)
    gate, up, down = source[2]
    with pytest.raises(FormatError, match=r"down of expert 2 is \(512, 256\), not \(256, 512\)"):
        to_experts([*source[:2], (gate, up, gate)], 3, top_k=K)
    assert down.shape == (H, I)


def test_nan_weights_are_refused():
    gate, up, down = triples(Plain)[0]
    bad = gate.weight.copy()
    bad[3, 4] = np.nan
    with pytest.raises(ValueError, match="gate weights of expert 0 hold NaN or infinity"):
        to_experts([(Plain(bad), up, down)], 1, top_k=1)


def test_codes_with_one_scale_for_a_row_keep_four_bits():
    rng = np.random.default_rng(0)
    rows = lambda n, k: Codes(  # noqa: E731
        rng.integers(-8, 8, (n, k)).astype(np.int8), np.ones((n, 1), np.float32), 4
    )
    loaded = to_experts([(rows(256, 128), rows(256, 128), rows(128, 256))], 1, top_k=1)
    assert (loaded.experts.format, loaded.experts.group) == ("int4", 128)
    assert loaded.error == 0


def test_a_row_that_the_group_does_not_divide_keeps_its_codes():
    rng = np.random.default_rng(0)
    rows = lambda n, k: Codes(  # noqa: E731
        rng.integers(-8, 8, (n, k)).astype(np.int8), np.full((n, 1), 0.5, np.float32), 4
    )
    loaded = to_experts([(rows(72, 200), rows(72, 200), rows(200, 72))], 1, top_k=1)
    assert (loaded.experts.format, loaded.error) == ("int4", 0)


def test_a_smaller_group_than_the_source_has_keeps_the_codes():
    loaded = to_experts(triples(lambda w: int4(w, 128)), E, top_k=K, target="int4", group=32)
    assert (loaded.experts.group, loaded.error) == (32, 0)


def test_a_code_of_minus_128_is_packed_anew():
    values = np.random.default_rng(3).integers(-127, 128, (64, 64)).astype(np.int8)
    values[1, 2] = -128
    matrix = Codes(values, np.ones((64, 2), np.float32), 8)
    loaded = to_experts([(matrix, matrix, matrix)], 1, top_k=1)
    assert loaded.experts.format == "int8" and 0 < loaded.error < 0.01


def test_scales_beyond_fp16_are_packed_anew():
    codes = int4(np.random.default_rng(3).standard_normal((64, 64)))
    tiny = Codes(codes.values, codes.scales * np.float32(2.0**-30), 4)
    loaded = to_experts([(tiny, tiny, tiny)], 1, top_k=1)
    assert loaded.experts.format == "int8" and loaded.error < 0.01


@pytest.mark.parametrize("exponent", [1, 2, 60, 180])
def test_mxfp4_is_exact_at_every_scale(exponent):
    rng = np.random.default_rng(5)
    matrix = MxFp4(
        rng.integers(0, 256, (64, 32), dtype=np.uint8), np.full((64, 2), exponent, np.uint8)
    )
    experts = to_experts([(matrix, matrix, matrix)], 1, top_k=1).experts
    wanted = matrix.decode() if exponent > 1 else np.zeros((64, 64))
    np.testing.assert_array_equal(experts.dequantised(0)[0], wanted)


def test_an_nvfp4_scale_with_a_sign_is_packed_anew():
    good = nvfp4(np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32))
    signed = NvFp4(good.weight, good.scale | np.uint8(128), good.whole)
    assert to_experts([(signed, signed, signed)], 1, top_k=1).experts.format == "int8"


def test_experts_are_decoded_a_few_at_a_time_and_in_order():
    """What comes is not run through ahead of packing, whatever the threads do."""
    source, taken = triples(fp8_rows), []

    def watched():
        for number, triple in enumerate(source * 8):
            taken.append(number)
            yield triple

    kt_moe.set_threads(2)
    ready = load._ahead(lambda triple: triple[0].weight[0, 0], watched(), 2)
    first = [next(ready) for _ in range(3)]
    ready.close()
    assert first == [triple[0].weight[0, 0] for triple in source][:3]
    assert len(taken) <= 5


def test_decoding_ahead_is_bounded_by_memory():
    class Large:
        hidden, intermediate = 7168, 2048

    kt_moe.set_threads(64)
    try:
        assert load._threads(Large()) == 6
    finally:
        kt_moe.set_threads(0)


def test_a_matrix_that_cannot_be_decoded_ends_the_loading():
    source = triples(fp8_rows)
    gate, up, down = source[-1]
    nan = gate.weight.copy()
    nan[0, 0] = 127
    bad = type(gate)(nan, gate.scale)
    with pytest.raises(ValueError, match="expert 2 hold NaN"):
        to_experts([*source[:-1], (bad, up, down)], E, top_k=K)
