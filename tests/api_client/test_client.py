"""The client against a server that says exactly what a test wants."""

import json
import socket

import pytest
from chat.raw_server import DONE, END, raw_server, text, thought, wait_until

from kt_cli.api_client.client import Client, base_url
from kt_cli.api_client.failures import LostError
from kt_cli.api_client.params import Params
from kt_cli.chat.stats import Meter
from kt_cli.errors import AuthError, KtError, NotFoundError, NotReadyError, UsageError

HI = [{"role": "user", "content": "hi"}]


def collect(url: str, **more: object) -> list[object]:
    return list(Client(url, **more).stream("raw", HI, Params()))


def test_text_reasoning_and_usage():
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    answer = [thought("hm"), text("a"), {**text("b"), "usage": None}, END, usage, DONE]
    with raw_server(answers=[answer]) as server:
        deltas = collect(server.url)
    assert [d.text for d in deltas] == ["", "a", "b", "", ""]
    assert deltas[0].reasoning == "hm"
    assert deltas[3].finish_reason == "stop"
    assert (deltas[-1].prompt_tokens, deltas[-1].completion_tokens) == (3, 9)


def test_the_request_carries_what_was_given_and_nothing_else():
    with raw_server() as server:
        client = Client(server.url, "secret")
        list(client.stream("raw", HI, Params(temperature=0.5, max_tokens=7)))
    request = server.requests[0]
    assert request["stream_options"] == {"include_usage": True}
    assert (request["temperature"], request["max_tokens"]) == (0.5, 7)
    assert set(request) == {
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "max_tokens",
    }
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_closing_the_stream_lets_the_server_go():
    with raw_server(answers=[[text("x"), 0.01] * 2000]) as server:
        deltas = Client(server.url).stream("raw", HI, Params())
        next(deltas)
        deltas.close()
        wait_until(lambda: server.broken_pipes == 1)


@pytest.mark.parametrize(
    "answer",
    [
        [text("half")],
        [text("half"), {"error": {"message": "shutting down"}}],
        [text("half"), "no json"],
        [text("half"), '"a string"'],
    ],
)
def test_an_answer_that_breaks_off_is_a_lost_server(answer):
    with raw_server(answers=[answer]) as server:
        deltas = Client(server.url).stream("raw", HI, Params())
        assert next(deltas).text == "half"
        with pytest.raises(LostError):
            next(deltas)


def test_a_stream_without_done_is_whole_when_it_told_its_end():
    with raw_server(answers=[[text("x"), END]]) as server:
        assert [d.text for d in collect(server.url)] == ["x", ""]


def error(message: str, code: str = "") -> bytes:
    return json.dumps({"error": {"message": message, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, error("no"), AuthError),
        (403, error("no"), AuthError),
        (404, error("no model"), NotFoundError),
        (503, error("loading"), NotReadyError),
        (400, error("too long", "context_length_exceeded"), KtError),
        (400, b'{"message": "flat"}', KtError),
        (400, b'{"error": "text"}', KtError),
        (500, b"<html>", KtError),
    ],
)
def test_refusals_have_their_kind(status, body, kind):
    with raw_server(status=status, body=body) as server, pytest.raises(KtError) as caught:
        collect(server.url)
    assert type(caught.value) is kind


def test_a_context_that_is_too_long_gets_advice():
    body = error("This model's maximum context length is 64 tokens", "context_length_exceeded")
    with raw_server(status=400, body=body) as server, pytest.raises(KtError) as caught:
        collect(server.url)
    assert "/clear" in caught.value.fix


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(NotReadyError, match=f"no server answers at http://127.0.0.1:{port}"):
        Client(f"127.0.0.1:{port}").models()


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with raw_server(models=["a", "b"]) as server:
        assert Client(server.url).models() == ["a", "b"]


@pytest.mark.parametrize(
    ("text_", "url"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1", "https://h/v1"),
        ("https://h/api/openai", "https://h/api/openai"),
    ],
)
def test_addresses(text_, url):
    assert base_url(text_) == url


@pytest.mark.parametrize("bad", ["", "ftp://x", "http://", "http://h:99999", "http://h:x"])
def test_what_is_no_address(bad):
    with pytest.raises(UsageError):
        base_url(bad)


def test_speed_comes_from_usage_or_from_counted_chunks():
    usage = {"choices": [], "usage": {"completion_tokens": 50}}
    parts = [0.05, text("a"), 0.05, text("b"), END]
    with raw_server(answers=[[*parts, DONE], [*parts, usage, DONE]]) as server:
        counted, reported = (measure(server.url) for _ in range(2))
    assert (counted.tokens, counted.from_usage) == (2, False)
    assert "(counted chunks)" in counted.describe()
    assert (reported.tokens, reported.from_usage) == (50, True)
    assert 0.04 < reported.ttft_s < 2
    assert reported.tokens_per_s == pytest.approx(49 * counted.tokens_per_s, rel=0.5)


def measure(url: str):
    meter = Meter()
    for delta in Client(url).stream("raw", HI, Params()):
        meter.see(delta)
    return meter.speed()


def test_half_a_surrogate_pair_does_no_harm():
    with raw_server(answers=[['{"choices":[{"delta":{"content":"\\ud83d"}}]}', END]]) as server:
        assert "".join(d.text for d in collect(server.url)).encode()


def test_a_slow_first_token_is_waited_for():
    with raw_server(answers=[[0.3, text("late"), END, DONE]]) as server:
        assert collect(server.url)[0].text == "late"
