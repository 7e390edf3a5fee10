"""Every bad request gets an error in the shape of the OpenAI API, and the engine none of it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedded.server.fake import Script, wait_until
from embedded.server.running import Running, serving
from kt_cli.embedded.api import Sampling
from kt_cli.embedded.server import Limits
from kt_cli.embedded.server.errors import ApiError
from kt_cli.embedded.server.schema import parse_chat, parse_completion

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(Script(context=64), limits=Limits(body_bytes=20_000)) as running:
        yield running


def error_of(response: httpx.Response) -> dict[str, object]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    return body["error"]


BAD_CHAT = [
    ({"messages": USER}, "model", "missing_required_parameter"),
    ({"model": "fake"}, "messages", "missing_required_parameter"),
    ({"model": 3, "messages": USER}, "model", "invalid_type"),
    ({"messages": []}, "messages", "empty_array"),
    ({"messages": "hi"}, "messages", "invalid_type"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing_required_parameter"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
    (
        {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        "messages[0].role",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
        "unsupported_parameter",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "missing_required_parameter",
    ),
    ({"n": 1_000_000}, "n", "integer_above_max_value"),
    ({"n": 0}, "n", "integer_below_min_value"),
    ({"n": "2"}, "n", "invalid_type"),
    ({"n": True}, "n", "invalid_type"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
    ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
    ({"max_tokens": 60}, "max_tokens", "context_length_exceeded"),
    ({"max_completion_tokens": 60}, "max_completion_tokens", "context_length_exceeded"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown_parameter"),
    ({"stop": [""]}, "stop[0]", "string_below_min_length"),
    ({"stop": [1]}, "stop[0]", "invalid_type"),
    ({"stop": ["x"] * 17}, "stop", "array_above_max_length"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": [1]}, "logit_bias", "invalid_type"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": "json"}, "response_format", "invalid_type"),
    ({"tool_choice": "required"}, "tool_choice", "unsupported_parameter"),
    ({"functions": [{}]}, "functions", "unsupported_parameter"),
    ({"temprature": 1}, "temprature", "unknown_parameter"),
    (
        {"messages": [{"role": "user", "content": "break the template"}]},
        "messages",
        "invalid_value",
    ),
    (
        {"messages": [{"role": "user", "content": "x" * 100}]},
        "messages",
        "context_length_exceeded",
    ),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_CHAT, ids=lambda v: str(v)[:40])
def test_bad_chat(server, body, param, code):
    missing = code == "missing_required_parameter" and param in ("model", "messages")
    full = body if missing else {"model": "fake", "messages": USER, **body}
    response = server.post("/v1/chat/completions", full)
    error = error_of(response)
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)


BAD_COMPLETIONS = [
    ({}, "prompt", "missing_required_parameter"),
    ({"prompt": []}, "prompt", "empty_array"),
    ({"prompt": ""}, "prompt", "empty_prompt"),
    ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
    ({"prompt": [1, "a"]}, "prompt[0]", "invalid_type"),
    ({"prompt": [-1]}, "prompt", "invalid_value"),
    ({"prompt": "x", "echo": True}, "echo", "unsupported_parameter"),
    ({"prompt": "x", "suffix": "y"}, "suffix", "unsupported_parameter"),
    ({"prompt": "x", "best_of": 3}, "best_of", "unsupported_parameter"),
    ({"prompt": "x", "logprobs": 30}, "logprobs", "integer_above_max_value"),
    ({"prompt": "x" * 64}, "prompt", "context_length_exceeded"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD_COMPLETIONS, ids=lambda v: str(v)[:40])
def test_bad_completion(server, body, param, code):
    response = server.post("/v1/completions", {"model": "fake", **body})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


def test_unknown_model_is_not_found(server):
    response = server.post("/v1/chat/completions", {"model": "gpt", "messages": USER})
    assert response.status_code == 404
    assert error_of(response)["code"] == "model_not_found"
    assert httpx.get(f"{server.url}/v1/models/a/b").status_code == 404


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b'"x"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b"[" * 15_000,
        b'{"n": ' + b"1" * 6000 + b"}",
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_broken_json(server, raw):
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/completions", content=raw, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["code"] in ("invalid_json", "invalid_type")


def test_lone_surrogates_never_reach_the_tokenizer(server):
    raw = b'{"model": "fake", "prompt": "\\ud800"}'
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/completions", content=raw, headers=headers)
    assert error_of(response)["code"] == "invalid_unicode"


@pytest.mark.parametrize("chunked", [False, True])
def test_huge_body(server, chunked):
    raw = b'{"prompt": "' + b"x" * 30_000 + b'"}'
    content = iter([raw[:15_000], raw[15_000:]]) if chunked else raw
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server.url}/v1/completions", content=content, headers=headers)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


def test_a_form_is_not_json(server):
    response = httpx.post(f"{server.url}/v1/completions", data={"model": "fake"})
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_content_type"


def test_the_body_must_be_announced_as_plain_json(server):
    json = {"content-type": "application/json"}
    for headers in ({}, {"content-type": "text/plain"}, {**json, "content-encoding": "gzip"}):
        response = httpx.post(f"{server.url}/v1/completions", content=b"{}", headers=headers)
        assert response.status_code == 415
        wanted = "compressed" if json.items() <= headers.items() else "application/json"
        assert wanted in error_of(response)["message"]


def test_unknown_url_and_method(server):
    response = httpx.get(f"{server.url}/v1/embeddings")
    assert response.status_code == 404
    assert error_of(response)["code"] == "unknown_url"
    response = httpx.get(f"{server.url}/v1/chat/completions")
    assert response.status_code == 405
    assert error_of(response)["code"] == "method_not_allowed"


def test_more_choices_than_the_server_ever_holds():
    with serving(limits=Limits(in_flight=2)) as server:
        for more in ({"n": 3}, {"prompt": ["a", "b", "c"]}, {"prompt": ["a", "b"], "n": 2}):
            response = server.post("/v1/completions", {"model": "fake", "prompt": "a", **more})
            error = error_of(response)
            assert (response.status_code, error["code"]) == (400, "too_many_choices")
            assert error["param"] == ("n" if "n" in more else "prompt")
            assert "at most 2" in error["message"]
        assert server.chat(n=2).status_code == 200


def test_what_fits_later_may_be_tried_again():
    with serving(Script(pause=60.0), limits=Limits(in_flight=2)) as server:
        url = f"{server.url}/v1/completions"
        body = {"model": "fake", "prompt": "x", "n": 2, "stream": True}
        with httpx.stream("POST", url, json=body):
            response = server.chat()
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert error_of(response)["code"] == "server_overloaded"
        wait_until(lambda: server.engine.stats().running == 0)


HOSTILE_BODIES = [
    r'{"model": "fake", "messages": [], "\ud800": 1}',
    r'{"model": "\ud800", "messages": [{"role": "user", "content": "a"}]}',
    r'{"model": "fake", "messages": [{"role": "\ud800", "content": "a"}]}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a", "\udfff": 1}]}',
    r'{"model": "fake", "messages": [{"role": "user", "content": [{"type": "\ud800"}]}]}',
    r'{"model": "fake", "messages": [{"role": "user", "content": [{"type": DEEP}]}]}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "tool_choice": "\ud800"}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "stop": "\ud800"}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "logit_bias": {"\ud8": 1}}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "logit_bias": {"LONG": 1}}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "logit_bias": {"1": LONG}}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "seed": LONG}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "modalities": DEEP}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "metadata": DEEPER}',
    r'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "x\u001b]52;\u202e": 1}',
]


def test_what_an_error_repeats_is_printable_and_short(server):
    headers = {"content-type": "application/json"}
    for raw in HOSTILE_BODIES:
        raw = raw.replace("LONG", "1" * 4299).replace("DEEPER", "[" * 9000 + "]" * 9000)
        raw = raw.replace("DEEP", "[" * 800 + "]" * 800)
        response = httpx.post(f"{server.url}/v1/chat/completions", content=raw, headers=headers)
        assert response.status_code in (400, 404), raw
        error = error_of(response)
        assert len(error["message"]) < 1100 and len(error["param"] or "") < 300
        assert (error["message"] + (error["param"] or "")).isprintable()


def test_a_model_of_any_name_can_be_listed():
    with serving() as server:
        server.state.model_name = "caf\udce9"  # a folder whose name is not UTF-8
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "caf\udce9"
        assert httpx.get(f"{server.url}/health").json()["model"] == "caf\udce9"


def test_an_error_of_the_server_itself_has_the_shape_too(monkeypatch):
    with serving() as server:
        monkeypatch.setattr(server.state, "health", lambda: 1 / 0)
        response = httpx.get(f"{server.url}/health")
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal_error"


FIELDS = ("model", "messages", "prompt", "n", "stream", "stream_options", "top_logprobs", "echo")
FIELDS += ("tools", "tool_choice", "response_format", "suffix", "best_of", "unknown")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from([*Sampling.__dataclass_fields__, *FIELDS])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_body_is_parsed_or_refused(body):
    for parse in (parse_chat, parse_completion):
        try:
            request = parse(body)
        except ApiError as error:
            assert error.status == 400
        else:
            assert 1 <= request.n <= 128


def test_the_engine_saw_no_bad_request(server):
    assert server.engine.submitted == []
