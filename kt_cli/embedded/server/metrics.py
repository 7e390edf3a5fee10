"""Metrics in the Prometheus text format (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from kt_cli.core.engine_report import EngineReport
from kt_cli.embedded.api import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TPOT_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0)

GAUGES = {
    "kt_requests_running": ("Requests being answered", "running"),
    "kt_requests_waiting": ("Requests waiting for a slot", "waiting"),
    "kt_kv_tokens_used": ("Tokens held in the KV cache", "kv_used"),
    "kt_kv_tokens": ("Tokens the KV cache can hold", "kv_total"),
}
COUNTERS = {
    "kt_prompt_tokens_total": ("Prompt tokens taken in", "prompt_tokens"),
    "kt_cached_prompt_tokens_total": (
        "Prompt tokens found in the prefix cache",
        "cached_prompt_tokens",
    ),
    "kt_generated_tokens_total": ("Tokens generated", "generated_tokens"),
    "kt_answers_finished_total": ("Answers finished", "requests_finished"),
    "kt_answers_cancelled_total": ("Answers given up by their client", "requests_cancelled"),
}


class Histogram:
    """Observations in seconds; `bounds` are the upper limits of the buckets."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str, about: str) -> Iterable[str]:
        yield from _head(name, about, "histogram")
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server itself counts; the engine's numbers come from its `Stats`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._ttft = Histogram(TTFT_BUCKETS)
        self._tpot = Histogram(TPOT_BUCKETS)

    def count(self, endpoint: str, status: int) -> None:
        with self._lock:
            self._requests[endpoint, status] += 1

    def first_token(self, seconds: float) -> None:
        with self._lock:
            self._ttft.observe(seconds)

    def per_token(self, seconds: float) -> None:
        with self._lock:
            self._tpot.observe(seconds)

    def render(
        self, stats: Stats | None, report: EngineReport | None = None, failing: str = ""
    ) -> str:
        """`failing`: why the last answers failed, empty while they succeed."""
        with self._lock:
            lines = [*self._own_lines(), *_engine_lines(stats), *_report_lines(report)]
        lines += _head("kt_failing", "Why the last answers failed", "gauge")
        lines += [f"kt_failing{_labels({'reason': failing})} 1"] if failing else []
        return "\n".join(lines) + "\n"

    def _own_lines(self) -> Iterable[str]:
        yield from _head("kt_requests_total", "Requests answered", "counter")
        for (endpoint, status), count in sorted(self._requests.items()):
            yield f'kt_requests_total{{endpoint="{endpoint}",status="{status}"}} {count}'
        yield from self._ttft.lines("kt_time_to_first_token_seconds", "Request to first token")
        yield from self._tpot.lines(
            "kt_time_per_output_token_seconds", "Time per token after the first"
        )


def _engine_lines(stats: Stats | None) -> Iterable[str]:
    if stats is None:
        return
    kinds: tuple[tuple[str, Mapping[str, tuple[str, str]]], ...] = (
        ("gauge", GAUGES),
        ("counter", COUNTERS),
    )
    for kind, table in kinds:
        for name, (about, field) in table.items():
            yield from _head(name, about, kind)
            yield f"{name} {getattr(stats, field)}"


def _report_lines(report: EngineReport | None) -> Iterable[str]:
    if report is None or not report.uses:
        return
    yield from _head("kt_engine_info", "What the loaded engine uses", "gauge")
    yield f"kt_engine_info{_labels(report.uses)} 1"
    yield from _head("kt_plan_differences", "What is not in use as it was planned", "gauge")
    for x in report.differences:
        labels = {"name": x.name, "planned": x.planned, "used": x.used}
        yield f"kt_plan_differences{_labels(labels)} 1"


def _labels(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _head(name: str, about: str, kind: str) -> Iterable[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
