"""A damaged file of packed weights never contributes to an answer."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import kt_moe
import numpy as np
import pytest
from kt_moe import PackFileError
from kt_moe._native import core

from .helpers import Case, random_case, random_low_rank, random_matrices

HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 72, 100, 3, 2
DAMAGES = int(os.environ.get("KT_FUZZ_DAMAGES", "2000"))
PAGE = 4096


def flip(raw: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, 4))):
        changed[rng.integers(len(raw))] ^= 1 << rng.integers(8)
    return bytes(changed)


def flip_in_the_header(raw: bytes, rng: np.random.Generator) -> bytes:
    return flip(raw[:600], rng) + raw[600:]


def cut(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw[: rng.integers(len(raw))]


def extend(raw: bytes, rng: np.random.Generator) -> bytes:
    return raw + rng.bytes(int(rng.integers(1, 2 * PAGE)))


def zero(raw: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(raw)), int(rng.integers(1, 2 * PAGE))
    return raw[:at] + bytes(len(raw[at : at + size])) + raw[at + size :]


def overwrite(raw: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(raw)), int(rng.integers(1, PAGE))
    return raw[:at] + rng.bytes(len(raw[at : at + size])) + raw[at + size :]


def swap_pages(raw: bytes, rng: np.random.Generator) -> bytes:
    pages = [raw[at : at + PAGE] for at in range(0, len(raw), PAGE)]
    one, other = rng.integers(len(pages), size=2)
    pages[one], pages[other] = pages[other], pages[one]
    return b"".join(pages)


def shift(raw: bytes, rng: np.random.Generator) -> bytes:
    """Bytes are lost in the middle and others follow at the end."""
    at, size = rng.integers(len(raw)), int(rng.integers(1, PAGE))
    return (raw[:at] + raw[at + size :]).ljust(len(raw), b"\0")


def another_header(raw: bytes, rng: np.random.Generator) -> bytes:
    """Numbers and names that make sense, in a header of the same length."""
    swaps = [
        (b'"top_k": 2', b'"top_k": 1'),
        (b'"hidden": 72', b'"hidden": 73'),
        (b'"act": "silu"', b'"act": "gelu"'),
        (b'"num_experts": 3', b'"num_experts": 2'),
        (b'"intermediate": 100', b'"intermediate": 101'),
        (b'"signed": true', b'"signed":1    '),
        (b"{", b" "),
    ]
    return raw.replace(*swaps[rng.integers(len(swaps))], 1)


KINDS = (
    flip, flip_in_the_header, cut, extend, zero, overwrite, swap_pages, shift, another_header,
)  # fmt: skip


@pytest.fixture
def case(rng: np.random.Generator) -> Case:
    return random_case(rng, 3, HIDDEN, EXPERTS, TOP_K)


def saved(path: Path, rng: np.random.Generator, fmt: str = "int8") -> kt_moe.Experts:
    matrices = random_matrices(rng, EXPERTS, HIDDEN, INTERMEDIATE)
    experts = kt_moe.Experts.from_weights(*matrices, format=fmt, top_k=TOP_K)
    experts.save(path)
    return experts


def outcome(path: Path, raw: bytes, whole: bytes, case: Case, wanted: np.ndarray) -> str:
    path.write_bytes(raw)
    try:
        got = kt_moe.Experts.load(path).forward(case.x, case.ids, case.weights)
    except ValueError:
        return "refused"
    if raw == whole:
        return "whole"
    return "same" if np.array_equal(got, wanted) else "silent"


def test_no_damage_changes_an_answer_silently(
    tmp_path: Path, case: Case, rng: np.random.Generator
) -> None:
    outcomes: Counter[str] = Counter()
    formats = core().formats()
    for n in range(DAMAGES):
        if n % (DAMAGES // len(formats) + 1) == 0:
            experts = saved(tmp_path / "whole", rng, formats[n * len(formats) // DAMAGES])
            wanted = experts.forward(case.x, case.ids, case.weights)
            whole = (tmp_path / "whole").read_bytes()
        raw = KINDS[n % len(KINDS)](whole, rng)
        outcomes[outcome(tmp_path / "damaged", raw, whole, case, wanted)] += 1
    assert set(outcomes) <= {"refused", "whole"}, outcomes
    assert outcomes["refused"] > 0.9 * DAMAGES, outcomes


Use = Callable[[kt_moe.Experts, Case], object]


def _low_rank(rng: np.random.Generator) -> list[np.ndarray]:
    return random_low_rank(rng, EXPERTS, HIDDEN, INTERMEDIATE, 2)


USES: dict[str, Use] = {
    "forward": lambda e, c: e.forward(c.x, c.ids, c.weights),
    "submit": lambda e, c: e.submit(c.x, c.ids, c.weights),
    "defer": lambda e, c: e.defer(c.x, c.ids, c.weights),
    "host_call": lambda e, c: e.host_call(c.x, c.ids, c.weights, out=np.empty_like(c.x)),
    "backward": lambda e, c: e.backward(c.x, c.ids, c.weights, c.x),
    "forward_low_rank": lambda e, c: e.forward_low_rank(
        c.x, c.ids, c.weights, _low_rank(np.random.default_rng(0)), 1.0
    ),
    "backward_low_rank": lambda e, c: e.backward_low_rank(
        c.x, c.ids, c.weights, c.x, _low_rank(np.random.default_rng(0)), 1.0
    ),
    "dequantised": lambda e, c: e.dequantised(0),
    "save": lambda e, c: e.save("nowhere/at/all"),
    "verify": lambda e, c: e.verify(),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_checks_first_and_again(
    use: str, tmp_path: Path, case: Case, rng: np.random.Generator
) -> None:
    path = tmp_path / "layer"
    saved(path, rng)
    raw = bytearray(path.read_bytes())
    raw[PAGE + 777] ^= 4
    path.write_bytes(raw)
    experts = kt_moe.Experts.load(path)
    for _ in range(2):
        with pytest.raises(PackFileError, match="digest"):
            USES[use](experts, case)


def test_a_file_cut_short_after_loading_is_no_crash(
    tmp_path: Path, case: Case, rng: np.random.Generator
) -> None:
    path = tmp_path / "layer"
    saved(path, rng)
    experts = kt_moe.Experts.load(path)
    os.truncate(path, PAGE)
    with pytest.raises(PackFileError, match="damaged"):
        experts.forward(case.x, case.ids, case.weights)


def test_threads_that_use_a_layer_at_once_wait_for_its_check(
    tmp_path: Path, case: Case, rng: np.random.Generator
) -> None:
    path = tmp_path / "layer"
    wanted = saved(path, rng).forward(case.x, case.ids, case.weights)
    experts = kt_moe.Experts.load(path)
    answers: list[np.ndarray] = []
    use = lambda: answers.append(experts.forward(case.x, case.ids, case.weights))  # noqa: E731
    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 and all(np.array_equal(a, wanted) for a in answers)


@pytest.mark.parametrize("size", [1, 65537, (4 << 20) + 1, (67 << 20) + 4321])
def test_threads_sum_what_one_thread_sums(size: int) -> None:
    kt_moe.set_threads(3)
    data = np.resize(np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8), size)
    step = 1 << 20
    alone = b"".join(core().checksums(data[at : at + step]) for at in range(0, size, step))
    assert core().checksums(data) == alone
    kt_moe.set_threads(0)
