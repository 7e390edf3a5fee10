"""Loading, disconnects, failures, the end: the slots are always free again."""

from __future__ import annotations

import itertools
import json
import threading

import httpx
import pytest
from openai import APIError, OpenAI

from embedded.server.fake import Script, wait_until
from embedded.server.running import serving
from kt_cli.embedded.server import Limits
from kt_cli.runtime.health import read_load

ENDLESS = Script(
    reply=lambda _: ["x"] * 10_000, pause=0.01, slots=1, context=100_000, kv_total=100_000
)
STUCK = Script(pause=60.0, slots=1)
BODY = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


def lines_until_end(url: str, body: dict[str, object]) -> list[str]:
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=10) as response:
        return [line for line in response.iter_lines() if line]


def test_health_and_requests_while_loading():
    with serving(ready=False) as server:
        server.on_loop(server.state.report, "layer 12/30", 0.42)
        health = httpx.get(f"{server.url}/health")
        assert health.status_code == 503
        assert health.json()["status"] == "loading"
        wait_until(lambda: httpx.get(f"{server.url}/health").json()["progress"] == 0.42)
        refused = server.chat()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_loading"
        assert refused.headers["retry-after"]
        server.on_loop(server.state.ready, server.engine)
        wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
        assert server.chat().status_code == 200


def test_a_streaming_client_that_leaves_frees_its_slot():
    with serving(ENDLESS) as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**BODY, "stream": True}) as response:
            lines = response.iter_lines()
            assert len(list(itertools.islice(lines, 3))) == 3
            assert server.engine.stats().running == 1
        assert wait_until(lambda: server.engine.stats().running == 0) < 1
        assert server.engine.stats().requests_cancelled == 1


def test_a_waiting_client_that_leaves_frees_its_slot():
    with serving(STUCK) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json=BODY, timeout=0.2)
        assert wait_until(lambda: server.engine.stats().running == 0) < 1
        assert server.engine.stats().requests_cancelled == 1


def test_a_client_that_leaves_the_queue_lets_the_next_one_in():
    with serving(ENDLESS) as server:
        url = f"{server.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={**BODY, "stream": True}) as first:
            lines = first.iter_lines()
            next(lines)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url, json=BODY, timeout=0.2)
            assert wait_until(lambda: server.engine.stats().waiting == 0) < 1
        assert server.chat(max_tokens=3).json()["usage"]["completion_tokens"] == 3


def test_every_choice_of_a_gone_client_is_cancelled():
    with serving(ENDLESS) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/chat/completions", json={**BODY, "n": 5}, timeout=0.2)
        wait_until(lambda: server.engine.stats().running + server.engine.stats().waiting == 0)
        assert server.engine.stats().requests_cancelled == 5


def test_requests_beyond_the_slots_are_answered_in_order():
    order: list[int] = []
    with serving(Script(pause=0.01, slots=1)) as server:

        def ask(number: int) -> None:
            server.chat()
            order.append(number)

        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            wait_until(lambda wanted=number: len(server.engine.submitted) > wanted)
        for thread in threads:
            thread.join()
    assert order == [0, 1, 2, 3]


def test_a_failure_of_the_engine_is_an_error_not_an_end():
    with serving(Script(fail_after=2)) as server:
        whole = server.chat()
        assert whole.status_code == 500
        assert whole.json()["error"]["type"] == "server_error"
        lines = lines_until_end(server.url, {**BODY, "stream": True})
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "internal_error"
        assert "data: [DONE]" not in lines
        assert server.engine.stats().running == 0


def test_health_tells_that_answers_fail_until_one_succeeds():
    with serving(Script(fail_after=1)) as server:
        health = lambda: httpx.get(f"{server.url}/health")  # noqa: E731
        for stream in (False, True):
            assert health().status_code == 200
            lines_until_end(server.url, {**BODY, "stream": stream})
        assert server.chat(temperature=9).status_code == 400
        assert health().status_code == 200
        assert server.chat().status_code == 500
        assert health().status_code == 503
        assert health().json() | {"model": "fake"} == {
            "status": "failing",
            "model": "fake",
            "reason": "Internal error: RuntimeError",
        }
        metrics = httpx.get(f"{server.url}/metrics").text
        assert read_load(metrics).failing == "Internal error: RuntimeError"
        server.engine.script.fail_after = None
        assert server.chat().status_code == 200
        assert health().json()["status"] == "ready"
        assert read_load(httpx.get(f"{server.url}/metrics").text).failing == ""


def test_a_template_that_takes_long_holds_up_chats_alone():
    with serving(Script(render=threading.Event().wait)) as server:
        for _ in range(8):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/chat/completions", json=BODY, timeout=0.05)
        answer = server.post("/v1/completions", {"model": "fake", "prompt": "hi"})
        assert answer.status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_stopping_ends_running_streams_with_an_error_event():
    with serving(ENDLESS) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(**BODY, stream=True)
        next(stream)
        server.on_loop(server.state.stop)
        with pytest.raises(APIError, match="shutting down"):
            list(stream)
        client.close()
        assert server.chat().json()["error"]["code"] == "server_shutting_down"
        assert httpx.get(f"{server.url}/health").json()["status"] == "stopping"
        assert wait_until(lambda: server.engine.stats().running == 0) < 1


def test_stopping_answers_a_waiting_client():
    with serving(STUCK) as server:
        timer = threading.Timer(0.2, server.on_loop, args=(server.state.stop,))
        timer.start()
        response = server.chat()  # an engine that is stuck never answers by itself
        assert response.status_code == 503


def test_a_silent_stream_is_kept_open():
    script = Script(pause=0.15, reply=lambda _: ["a"])
    with serving(script, limits=Limits(keep_alive_s=0.05)) as server:
        lines = lines_until_end(server.url, {**BODY, "stream": True})
    assert ": keep-alive" in lines
    assert lines[-1] == "data: [DONE]"
