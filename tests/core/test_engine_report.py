from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kt_cli.core.engine_report import EngineReport, from_words, planned_uses, report, to_words
from kt_cli.embedded.api import Stats
from kt_cli.embedded.server.metrics import Metrics
from kt_cli.options import RunOptions
from kt_cli.runtime.health import read_load
from tests.core.test_plan_embedded import plan

USES = {"experts": "torch", "dtype": "fp32", "threads": "2"}


def test_what_was_not_planned_or_not_reported_is_no_difference() -> None:
    planned = {"experts": "kt_moe", "threads": "2", "isa": "avx2"}
    found = report(USES, planned)
    assert [str(x) for x in found.differences] == ["experts: planned kt_moe, in use torch"]
    assert report(USES, {}).differences == report({}, planned).differences == ()


def test_a_plan_promises_what_an_engine_reports() -> None:
    promised = planned_uses(plan(RunOptions(model="small", cpu_threads=1)))
    assert promised["experts"] == "torch" and promised["threads"] == "1"
    assert from_words(to_words(promised)) == promised


@given(st.dictionaries(st.sampled_from(sorted(USES)), st.text(), min_size=1), st.text())
def test_metrics_carry_any_text_to_whoever_reads_them(uses: dict[str, str], text: str) -> None:
    """Line ends of Unicode included, which `str.splitlines` would cut at."""
    sent = report(uses, dict.fromkeys(uses, text))
    assert read_load(Metrics().render(Stats(0, 0, 0, 0, 0, 0, 0, 0), sent)).report == sent


def test_without_metrics_of_ours_there_is_no_report() -> None:
    assert read_load("sglang:num_running_reqs 1").report == EngineReport()
