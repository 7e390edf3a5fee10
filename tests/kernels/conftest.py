from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

kt_moe = pytest.importorskip("kt_moe")

RUN = kt_moe.cpu_info()["variants"] if kt_moe.available else []


def _stands_in(variant: str) -> bool:
    """Emulated, and its original runs here: it is compared with that one instead."""
    original = variant.removesuffix("_shim")
    return original != variant and original in RUN and "KT_TEST_SHIMS" not in os.environ


def _variants() -> list[str]:
    if "KT_TEST_BEST_VARIANT" in os.environ and RUN:
        return [kt_moe.cpu_info()["variant"]]
    return [variant for variant in RUN if not _stands_in(variant)]


VARIANTS = _variants()


@pytest.fixture(params=VARIANTS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = kt_moe.cpu_info()["variant"]
    kt_moe.use_isa(request.param)
    kt_moe.limits.set_tile_from(4)  # timing would send emulated tiles into retirement
    yield request.param
    kt_moe.limits.set_tile_from(0)
    kt_moe.use_isa(before)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _needs_kernels() -> None:
    if not kt_moe.available:
        pytest.skip(f"kernels not built: {kt_moe.why}")
