"""`/metrics` is valid exposition text with true numbers."""

from __future__ import annotations

import itertools
import re

import httpx
from hypothesis import given
from hypothesis import strategies as st

from embedded.server.fake import Script, wait_until
from embedded.server.running import serving
from kt_cli.embedded.server.metrics import CONTENT_TYPE, Histogram, Metrics

SAMPLE = re.compile(r'^[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [-+0-9.eInf]+$')


def samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(SAMPLE.match(line) for line in lines)
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_a_request_is_counted_and_timed():
    with serving(Script(pause=0.01)) as server:
        server.chat()
        server.chat(n=0)
        list(server.chat(stream=True).iter_lines())
        response = httpx.get(f"{server.url}/metrics")
    assert response.headers["content-type"] == CONTENT_TYPE
    values = samples(response.text)
    assert values['kt_requests_total{endpoint="chat",status="200"}'] == 2
    assert values['kt_requests_total{endpoint="chat",status="400"}'] == 1
    assert values["kt_generated_tokens_total"] == 10
    assert values["kt_prompt_tokens_total"] == 2 * len("<user>hi")
    assert values["kt_time_to_first_token_seconds_count"] == 2
    assert 0.02 <= values["kt_time_to_first_token_seconds_sum"] < 1
    assert values["kt_time_per_output_token_seconds_count"] == 2
    assert values["kt_kv_tokens"] == 1000


def test_running_waiting_and_gone_clients():
    script = Script(
        reply=lambda _: ["x"] * 10_000, pause=0.01, slots=1, context=100_000, kv_total=100_000
    )
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with serving(script) as server:
        url = f"{server.url}/v1/chat/completions"
        with (
            httpx.stream("POST", url, json=body) as first,
            httpx.stream("POST", url, json=body),
        ):
            lines = first.iter_lines()
            assert len(list(itertools.islice(lines, 4))) == 4
            values = samples(httpx.get(f"{server.url}/metrics").text)
            assert values["kt_requests_running"] == 1
            assert values["kt_requests_waiting"] == 1
            assert values["kt_kv_tokens_used"] == len("<user>hi")
        gone = 'kt_requests_total{endpoint="chat",status="499"} 2'
        wait_until(lambda: gone in httpx.get(f"{server.url}/metrics").text)


def test_before_the_engine_is_there_the_server_counts_already():
    values = samples(Metrics().render(None))
    assert values["kt_time_to_first_token_seconds_count"] == 0
    assert "kt_requests_running" not in values


@given(st.lists(st.floats(0, 200)))
def test_buckets_are_cumulative_and_complete(seconds):
    histogram = Histogram((0.5, 1.0, 2.0))
    for value in seconds:
        histogram.observe(value)
    values = samples("\n".join(histogram.lines("h", "about")))
    for bound in (0.5, 1.0, 2.0):
        assert values[f'h_bucket{{le="{bound}"}}'] == sum(value <= bound for value in seconds)
    assert values['h_bucket{le="+Inf"}'] == values["h_count"] == len(seconds)
