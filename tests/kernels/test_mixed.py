"""Layers whose down has another format than gate and up: every ISA, odd shapes, the file."""

from __future__ import annotations

import json
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe import PackFileError
from kt_moe import reference as twin

from .helpers import (
    dequantised,
    error,
    random_case,
    random_low_rank,
    random_matrices,
    reference,
)

# format and group of gate and up, then of down
PAIRS = [
    ("int4", 32, "int8", 32),
    ("int4", 128, "q4_1", 16),
    ("int8", 32, "bf16", 32),
    ("bf16", 32, "nvfp4", 16),
    ("mxfp4", 32, "q8_0", 64),
    ("q4_1", 32, "q6_0", 16),
    ("q6_1", 32, "iq4_nl", 32),
]
# tokens, hidden, intermediate, experts, top-k
SHAPES = [(1, 200, 72, 5, 3), (2, 64, 192, 3, 2), (9, 129, 130, 4, 2), (70, 330, 100, 4, 3)]

pairs = pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p[0]}-{p[2]}")
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(
    rng: np.random.Generator, pair: tuple[str, int, str, int], e: int, h: int, i: int, k: int
) -> kt_moe.Experts:
    fmt, group, down, down_group = pair
    matrices = random_matrices(rng, e, h, i)
    return kt_moe.Experts.from_weights(
        *matrices, format=fmt, group=group, down_format=down, down_group=down_group, top_k=k
    )


def own_bound(isa: str) -> float:
    return 3e-2 if isa.startswith("amx") else 2.5e-2


@pairs
@shapes
def test_matches_reference_on_its_own_weights(
    isa: str, pair: tuple[str, int, str, int], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts = make(rng, pair, e, h, i, k)
    case = random_case(rng, tokens, h, e, k)
    wanted = reference(dequantised(experts), case)
    assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound(isa)


@pairs
@pytest.mark.parametrize("cut", [(2, 4, 1, True), (256, 8, 16, True)], ids=str)
def test_any_cut_of_a_product_gives_the_same(
    isa: str,
    pair: tuple[str, int, str, int],
    cut: tuple[int, int, int, bool],
    rng: np.random.Generator,
) -> None:
    experts = make(rng, pair, 2, 600, 330, 1)
    case = random_case(rng, 300, 600, 2, 1)
    wanted = reference(dequantised(experts), case)
    kt_moe.limits.pin_cut(kt_moe.limits.Cut(*cut))
    try:
        assert error(experts.forward(case.x, case.ids, case.weights), wanted) < own_bound(isa)
    finally:
        kt_moe.limits.pin_cut(None)


@pairs
@shapes
def test_each_matrix_is_what_a_layer_of_its_format_alone_holds(
    pair: tuple[str, int, str, int], shape: tuple[int, ...]
) -> None:
    _, h, i, e, k = shape
    fmt, group, down, down_group = pair
    mixed, up, own = (
        dequantised(make(np.random.default_rng(3), p, e, h, i, k))
        for p in (pair, (fmt, group, fmt, group), (down, down_group, down, down_group))
    )
    for got, wanted in zip(mixed, (*up[:2], own[2]), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pairs
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_gradients_match_reference(
    isa: str, pair: tuple[str, int, str, int], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts, case = make(rng, pair, e, h, i, k), random_case(rng, tokens, h, e, k)
    dout = rng.standard_normal(case.x.shape).astype(np.float32)
    layer = twin.layer(*(m.astype(np.float64) for m in dequantised(experts)))
    wanted = twin.backward(layer, case.x, case.ids, case.weights, dout)
    dx, dweights = experts.backward(case.x, case.ids, case.weights, dout)
    assert error(dx, wanted.x) < 1e-2 and error(dweights, wanted.weights) < 2e-2


@pairs
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_low_rank_forward_and_gradients(
    isa: str, pair: tuple[str, int, str, int], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    tokens, h, i, e, k = shape
    experts, case = make(rng, pair, e, h, i, k), random_case(rng, tokens, h, e, k)
    low_rank = random_low_rank(rng, e, h, i, 4)
    pairs = [twin.LowRank(low_rank[2 * p], low_rank[2 * p + 1], 0.7) for p in range(3)]
    matrices = (m.astype(np.float64) for m in dequantised(experts))
    layer = twin.Layer(*(twin.Projection(m, p) for m, p in zip(matrices, pairs, strict=True)))
    call = case.x, case.ids, case.weights
    wanted = twin.backward(layer, *call, case.x)
    y = experts.forward_low_rank(*call, low_rank, 0.7)
    dx, _, grads = experts.backward_low_rank(*call, case.x, low_rank, 0.7)
    assert error(y, twin.forward(layer, *call)) < 1e-2 and error(dx, wanted.x) < 1e-2
    for p, own in enumerate((wanted.gate, wanted.up, wanted.down)):
        assert error(grads[2 * p], own.a) < 1e-2 and error(grads[2 * p + 1], own.b) < 1e-2


@pairs
def test_loaded_experts_answer_alike(
    pair: tuple[str, int, str, int], tmp_path: Path, rng: np.random.Generator
) -> None:
    experts = make(rng, pair, 3, 72, 100, 2)
    experts.save(tmp_path / "layer.kt")
    loaded = kt_moe.Experts.load(tmp_path / "layer.kt", verify=True)
    assert (loaded.format, loaded.group, loaded.down_format, loaded.down_group) == pair
    case = random_case(rng, 9, 72, 3, 2)
    np.testing.assert_array_equal(
        loaded.forward(case.x, case.ids, case.weights),
        experts.forward(case.x, case.ids, case.weights),
    )


def header(path: Path) -> dict[str, object]:
    raw = path.read_bytes()
    read: dict[str, object] = json.loads(raw[24 : 24 + int.from_bytes(raw[20:24], "little")])
    return read


def test_readers_of_one_format_refuse_the_file_by_its_layout(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "layer.kt"
    make(rng, PAIRS[1], 1, 64, 64, 1).save(path)
    written = header(path)
    assert written["layout"] == "n16-tile-major-v2" and written["numa_split"] == 128
    assert [written[name] for name in ("format", "group")] == ["int4", 128]
    assert [written[name] for name in ("down_format", "down_group")] == ["q4_1", 16]
    path.write_bytes(path.read_bytes().replace(b"-major-v2", b"-major-v1", 1))
    with pytest.raises(PackFileError, match="layout n16-tile-major-v1"):
        kt_moe.Experts.load(path)


def test_a_file_of_one_format_is_as_it_was_before_there_were_two(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "layer.kt"
    make(rng, ("int8", 64, "int8", 64), 1, 64, 64, 1).save(path)
    written = {k: v for k, v in header(path).items() if k not in ("digest", "sample")}
    assert written == {
        "format": "int8",
        "num_experts": 1,
        "hidden": 64,
        "intermediate": 64,
        "group": 64,
        "top_k": 1,
        "act": "silu",
        "layout": "n16-tile-major-v1",
        "alignment": 64,
        "signed": True,
        "group_axis": "k",
        "row_sum_compensation": False,
        "numa_split": 64,
        "data_bytes": 3 * 64 * 64 + 3 * 64 * 4,
    }


def test_a_group_alone_is_of_all_three_and_a_format_has_its_own_usual_group() -> None:
    alike = kt_moe.Experts(1, 64, 64, format="int4", group=64, top_k=1)
    assert (alike.down_format, alike.down_group) == ("int4", 64)
    own = kt_moe.Experts(1, 64, 64, format="int4", group=64, down_format="nvfp4", top_k=1)
    assert (own.down_format, own.down_group) == ("nvfp4", 16)
    with pytest.raises(ValueError, match="group must be 32 for mxfp4, not 64"):
        kt_moe.Experts(1, 64, 64, format="int4", down_format="mxfp4", down_group=64, top_k=1)
