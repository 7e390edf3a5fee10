"""Every format becomes packed experts that compute what the format says, to a known error."""

import numpy as np
import pytest
from kt_moe import reference
from kt_moe.formats import (
    Awq,
    Codes,
    FormatError,
    Plain,
    fp8_blocks,
    fp8_rows,
    gptq,
    int4,
    int8,
    mxfp4,
    mxfp8,
    nvfp4,
    rawint4,
)
from kt_moe.formats.floats import to_bf16
from kt_moe.formats.load import to_experts

pytestmark = pytest.mark.usefixtures("kernels")
E, H, I, T, K = 3, 128, 192, 5, 2  # noqa: E741


def awq(weights):
    """Random codes of the right shape: AWQ is read only."""
    rng = np.random.default_rng(9)
    n, k = weights.shape
    word = lambda *shape: rng.integers(-(2**31), 2**31, shape).astype(np.int32)  # noqa: E731
    scales = rng.random((k // 32, n)).astype(np.float32) * 0.01
    return Awq(word(k, n // 8), word(k // 32, n // 8), scales)


FORMATS = {
    "bf16": (lambda w: Plain(to_bf16(w)), "bf16", 0),
    "float32": (Plain, "bf16", 0.003),
    "float64": (lambda w: Plain(w.astype(np.float64)), "bf16", 0.003),
    "int8": (int8, "int8", 1e-6),
    "int4": (lambda w: int4(w, 64), "int4", 0.02),
    "rawint4": (lambda w: rawint4(int4(w)), "int4", 0.02),
    "gptq": (lambda w: gptq(int4(w, 64)), "int4", 0.02),
    "awq": (awq, "int8", 0.012),
    "fp8 blocks": (fp8_blocks, "int8", 0.01),
    "fp8 rows": (fp8_rows, "int8", 0.01),
    "mxfp4": (mxfp4, "int8", 0.01),
    "mxfp8": (mxfp8, "int8", 0.01),
    "nvfp4": (nvfp4, "int8", 0.01),
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


def test_mixed_formats_meet_at_eight_bits():
    mixed = [(int4(np.eye(I, H)), mxfp4(np.eye(I, H)), mxfp4(np.eye(H, I)))]
    assert to_experts(mixed, 1, top_k=1).experts.format == "int8"


def test_a_wrong_number_of_experts_or_a_wrong_shape_is_refused():
    source = triples(int8)
    with pytest.raises(FormatError, match="3 experts came, not 4"):
        to_experts(source, 4, top_k=K)
    gate, up, down = source[2]
    with pytest.raises(FormatError, match=r"down of expert 2 is \(192, 128\), not \(128, 192\)"):
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
    assert loaded.error < 0.002
