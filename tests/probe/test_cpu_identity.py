"""Who the CPU is where /proc/cpuinfo does not tell: py-cpuinfo asks the CPU itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kt_cli.probe import cpu
from kt_cli.probe.host import Host, load_cpuid

ASKED = {
    "brand_raw": "Example CPU 9000",
    "vendor_id_raw": "GenuineExample",
    "flags": ["avx2", "fma", "avx512vnni", "sse"],
}
HIDDEN = "processor : 0\nmodel name :\nflags :\n"
TOLD = "processor : 0\nvendor_id : V\nmodel name : Told\nflags : avx2 fma\n"


def host(root: Path, text: str, answer: Any) -> Host:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(text)
    return Host(root, env={}, cpuid=answer)


@pytest.mark.parametrize("text", ["", HIDDEN])
def test_a_hidden_cpuinfo_is_made_up_for(tmp_path: Path, text: str) -> None:
    found = cpu.read(host(tmp_path, text, lambda: ASKED))
    assert (found.model, found.vendor) == ("Example CPU 9000", "GenuineExample")
    assert {"avx2", "fma", "avx512_vnni"} <= set(found.isa)


def test_what_the_kernel_tells_is_taken_and_nobody_asked(tmp_path: Path) -> None:
    def never() -> Mapping[str, Any]:
        raise AssertionError("asked")

    assert cpu.read(host(tmp_path, TOLD, never)).model == "Told"


def broken() -> Mapping[str, Any]:
    raise RuntimeError("no")


@pytest.mark.parametrize("answer", [broken, dict, lambda: {"flags": 3, "brand_raw": None}])
def test_an_answer_that_helps_nobody_changes_nothing(tmp_path: Path, answer: Any) -> None:
    assert cpu.read(host(tmp_path, HIDDEN, answer)).model == ""


def test_the_library_knows_this_cpu() -> None:
    assert "avx2" in load_cpuid()["flags"]
